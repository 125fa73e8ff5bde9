// Requests that run, and the last that ended.

import { ask } from "../api.js";
import { clock, ms, number } from "../format.js";
import { t } from "../i18n.js";
import { models } from "../models.js";
import { html, useLanguage, usePoll, useState, useStore } from "../ui.js";
import { Empty, Notice, words } from "./parts.js";

export function Requests({ query }) {
  useLanguage();
  const rows = useStore(models) ?? [];
  const [model, setModel] = useState(query.model ?? "");
  const [failure, setFailure] = useState(null);
  const path = `api/requests?limit=100${model ? `&model=${encodeURIComponent(model)}` : ""}`;
  const found = usePoll(path, 1000);
  const cancel = async (one) => {
    setFailure(null);
    try {
      await ask(`api/requests/${encodeURIComponent(one.id)}/cancel`, { method: "POST" });
    } catch (error) {
      setFailure(error);
    }
  };
  const all = found.data ? [...found.data.running, ...found.data.recent] : [];
  return html`<div class="head">
      <h1>${t("view.requests")} ${found.data && html`<small>${t("requests.summary", { n: found.data.running.length })}</small>`}</h1>
      <select aria-label=${t("model")} value=${model} onChange=${(e) => setModel(e.target.value)}>
        <option value="">${t("requests.allModels")}</option>
        ${rows.map((row) => html`<option key=${row.name} value=${row.name}>${row.name}</option>`)}
      </select>
    </div>
    <${Notice} failure=${found.failure} />
    ${failure && html`<p class="notice error" role="alert">${words(failure)}</p>`}
    ${found.data && !all.length && html`<${Empty}>${t("requests.empty")}<//>`}
    ${all.length > 0 && html`<${Table} all=${all} cancel=${cancel} />`}`;
}

const COLUMNS = ["when", "model", "state", "key", "queue", "ttft", "tokens", "duration", "id"];

const Table = ({ all, cancel }) => html`<div class="scroll" tabindex="0" role="region" aria-label=${t("view.requests")}><table class="requests">
  <thead><tr>${COLUMNS.map((one) => html`<th key=${one} scope="col" class=${`c-${one}`}>${t(`requests.${one}`)}</th>`)}</tr></thead>
  <tbody>${all.map((one) => html`<${Row} key=${one.id} one=${one} cancel=${cancel} />`)}</tbody>
</table></div>`;

function Row({ one, cancel }) {
  const runs = one.state === "waiting" || one.state === "running";
  const tokens = `${number(one.prompt_tokens)} → ${number(one.completion_tokens)}`;
  return html`<tr class=${`is-${one.state}`}>
    <td class="c-when">${clock(one.began_at)}</td>
    <td class="c-model"><strong>${one.model}</strong> <span class="hint">${one.path}</span></td>
    <td class="c-state"><span class=${`badge is-${one.state}`}><span class="dot" aria-hidden="true"></span>${t(`request.${one.state}`)}${one.status ? ` ${one.status}` : ""}</span>
      ${one.from_cache && html`<span class="tag">${t("requests.cached")}</span>`}
      ${runs && html`<button class="quiet" aria-label=${`${t("requests.cancel")}: ${one.request_id}`} onClick=${() => cancel(one)}>${t("requests.cancel")}</button>`}</td>
    <td class="c-key">${one.key || "–"}</td>
    <td class="c-queue">${ms(one.queue_ms)}</td>
    <td class="c-ttft">${ms(one.ttft_ms)}</td>
    <td class="c-tokens" title=${one.cached_tokens ? t("requests.cachedTokens", { n: one.cached_tokens }) : undefined}>${tokens}</td>
    <td class="c-duration">${ms(one.total_ms)}</td>
    <td class="c-id"><code title=${one.request_id}>${one.request_id?.slice(0, 8)}</code></td>
  </tr>`;
}
