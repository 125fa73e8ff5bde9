// One model of the table.

import { bytes, rate as perSecond, size, span } from "../format.js";
import { t } from "../i18n.js";
import { key } from "../key.js";
import { act } from "../models.js";
import { write } from "../route.js";
import { snippets } from "../snippets.js";
import { idle, nodeMemory, progress } from "../table.js";
import { html, useNow, useState } from "../ui.js";
import { Badge, Bar, Copy, Dialog, words } from "./parts.js";

const MB = 2 ** 20;

export function Model({ row, devices, rate, known }) {
  const [snippet, setSnippet] = useState(false);
  const up = row.status === "running";
  return html`<li class=${`model is-${row.status}`}>
    <div class="who">
      <h2>${row.name}${row.pinned && html`<span class="tag" title=${t("model.pinnedWhy")}>${t("model.pinned")}</span>`}</h2>
      <p class="hint">${about(row)}</p>
    </div>
    <div class="how">
      <${Badge} state=${row.status} />
      ${row.status === "starting" ? html`<${Progress} row=${row} />` : html`<${Clock} row=${row} />`}
      ${row.failure_reason && html`<p class="reason is-bad">${row.failure_reason}</p>`}
      ${!row.failure_reason && row.reason && html`<p class="reason">${row.reason}</p>`}
    </div>
    <${Memory} row=${row} nodes=${devices?.nodes ?? []} />
    <dl class="load">
      <div><dt>${t("model.running")}</dt><dd>${row.running_requests}</dd></div>
      <div><dt>${t("model.waiting")}</dt><dd class=${row.pending_requests ? "is-hot" : ""}>${row.pending_requests}</dd></div>
      <div><dt>${t("model.rate")}</dt><dd>${known && up ? perSecond(rate ?? 0) : perSecond(null)}</dd></div>
    </dl>
    <${Buttons} row=${row} snippet=${() => setSnippet(true)} />
    ${snippet && html`<${Snippet} row=${row} close=${() => setSnippet(false)} />`}
  </li>`;
}

function about(row) {
  const where = row.placement && row.placement !== row.name ? row.placement : null;
  const replicas = row.replicas > 1 ? t("model.replicas", { n: row.replicas }) : null;
  const parent = row.parent && t("model.adapter", { base: row.parent });
  const pool = row.pool && t("model.pool", { pool: row.pool });
  const context = row.context_length && t("model.context", { n: row.context_length });
  return [row.engine, row.mode, parent, pool, where, ...(row.nodes ?? []), replicas, context, ...row.aliases].filter(Boolean).join(" · ");
}

function Progress({ row }) {
  const now = useNow(250);
  const at = progress(row, now);
  if (!at) return null;
  const times = at.last ? t("model.ofLast", { now: span(at.seconds), last: span(at.last) }) : span(at.seconds);
  return html`<div class="progress">
    <span>${at.phase} · ${times}</span>
    <progress aria-label=${t("model.loading", { name: row.name })} max="1" value=${at.share ?? undefined}></progress>
  </div>`;
}

function Clock({ row }) {
  const now = useNow(row.idle_seconds == null ? 0 : 1000);
  const at = idle(row, now);
  if (!at) return null;
  const text = t("model.idle", { time: span(Math.round(at.seconds)) });
  if (at.left == null) return html`<span class="hint">${text}</span>`;
  return html`<span class="hint">${text} · ${t("model.unloads", { time: span(Math.round(at.left)) })}</span>`;
}

function Memory({ row, nodes }) {
  const used = row.memory_bytes || row.memory_needed_bytes;
  const whole = nodeMemory(row, nodes);
  if (!used) return html`<div class="memory"></div>`;
  const text = whole ? t("model.memoryOf", { used: bytes(used), whole: size(whole) }) : bytes(used);
  const up = row.memory_bytes > 0;
  return html`<div class=${`memory${up ? "" : " is-planned"}`}>
    <span>${up ? text : t("model.needs", { memory: bytes(used) })}</span>
    <${Bar} value=${up ? used / MB : 0} whole=${whole} label=${`${t("memory")}: ${text}`} />
  </div>`;
}

function Buttons({ row, snippet }) {
  const [failure, setFailure] = useState(null);
  const [busy, setBusy] = useState(false);
  const does = (what) => async () => {
    setBusy(true);
    setFailure(null);
    try {
      await act(row.name, what);
    } catch (error) {
      setFailure(error);
    }
    setBusy(false);
  };
  const down = row.status === "stopped" || row.status === "failed";
  const what = down ? "start" : "stop";
  const pin = row.pinned ? "unpin" : "pin";
  const button = (name, click, kind = "quiet") =>
    html`<button class=${kind} disabled=${busy} aria-label=${`${t(`model.${name}`)}: ${row.name}`} onClick=${click}>${t(`model.${name}`)}</button>`;
  return html`<div class="buttons">
    ${button(what, does(what), down ? "go" : "")}
    ${!row.parent && !row.pool && button(pin, does(pin))}
    ${row.mode === "chat" && html`<a class="button quiet" aria-label=${`${t("view.chat")}: ${row.name}`} href=${write("chat", { model: row.name })}>${t("view.chat")}</a>`}
    <a class="button quiet" aria-label=${`${t("view.logs")}: ${row.name}`} href=${write("logs", { model: row.name })}>${t("view.logs")}</a>
    ${button("snippet", snippet)}
    ${failure && html`<p class="notice error" role="alert">${words(failure)}</p>`}
  </div>`;
}

function Snippet({ row, close }) {
  const base = new URL("v1", document.baseURI).href;
  const texts = snippets(row.name, row.mode, base, Boolean(key()));
  const [which, set] = useState("curl");
  const names = { curl: "curl", python: "Python", javascript: "JavaScript" };
  return html`<${Dialog} title=${t("snippet.title", { name: row.name })} close=${close}>
    <div class="choice" role="group" aria-label=${t("snippet.language")}>
      ${Object.entries(names).map(
        ([one, name]) => html`<button key=${one} class="quiet" aria-pressed=${one === which} onClick=${() => set(one)}>${name}</button>`,
      )}
      <${Copy} text=${texts[which]} />
    </div>
    <pre tabindex="0">${texts[which]}</pre>
  <//>`;
}
