// A conversation with a model, or with two side by side.

import { busy, renewed, shortened } from "../chat.js";
import { t } from "../i18n.js";
import { models } from "../models.js";
import { chatModels } from "../table.js";
import { again, change, send, stopAll, talk } from "../talk.js";
import { html, useEffect, useLanguage, useRef, useState, useStore } from "../ui.js";
import { Answer } from "./answer.js";
import { Composer } from "./composer.js";
import { Empty } from "./parts.js";
import { Settings } from "./settings.js";

export function Chat({ query }) {
  useLanguage();
  const chat = useStore(talk);
  const rows = useStore(models);
  const [draft, setDraft] = useState({ text: "", images: [] });
  useChosen(query.model, rows, chat);
  const edit = () => {
    const last = chat.turns.at(-1);
    stopAll();
    setDraft({ text: last.text, images: last.images });
    change(shortened(chat));
  };
  const say = () => {
    send(draft.text, draft.images);
    setDraft({ text: "", images: [] });
  };
  const renew = () => {
    stopAll();
    change(renewed(chat));
  };
  return html`<div class="head">
      <h1 class="unseen">${t("view.chat")}</h1>
      <${Picks} chat=${chat} rows=${chatModels(rows ?? [])} />
      <button class="quiet" onClick=${renew} disabled=${!chat.turns.length}>${t("chat.new")}</button>
    </div>
    <${Settings} chat=${chat} />
    <${Turns} chat=${chat} edit=${edit} />
    <${Composer} draft=${draft} setDraft=${setDraft} busy=${busy(chat)} ready=${chat.models.every(Boolean)} say=${say} stop=${stopAll} />`;
}

/** The model that the address names, or any, where none is chosen yet. */
function useChosen(wanted, rows, chat) {
  useEffect(() => {
    if (wanted) change({ models: [wanted, ...chat.models.slice(1)] });
  }, [wanted]);
  const first = rows && (chatModels(rows).find((row) => row.status === "running") ?? chatModels(rows)[0]);
  useEffect(() => {
    if (first && !wanted && !chat.models[0]) change({ models: [first.name, ...chat.models.slice(1)] });
  }, [first?.name, chat.models[0]]);
}

function Picks({ chat, rows }) {
  const two = chat.models.length === 2;
  const pick = (column) => (event) => change({ models: chat.models.map((one, i) => (i === column ? event.target.value : one)) });
  const besides = () => change({ models: two ? chat.models.slice(0, 1) : [chat.models[0], other(rows, chat.models[0])] });
  return html`<span class="picks">
    ${chat.models.map(
      (model, i) => html`<select key=${i} aria-label=${two ? t("chat.modelOf", { n: i + 1 }) : t("model")} value=${model} onChange=${pick(i)}>
        ${!rows.some((row) => row.name === model) && html`<option value=${model}>${model || "–"}</option>`}
        ${rows.map((row) => html`<option key=${row.name} value=${row.name}>${row.name}${row.status === "running" ? " ●" : ""}</option>`)}
      </select>`,
    )}
    <button class="quiet" aria-pressed=${two} disabled=${busy(chat)} onClick=${besides}>${t("chat.besides")}</button>
  </span>`;
}

const other = (rows, name) => (rows.find((row) => row.name !== name) ?? rows[0])?.name ?? "";

function Turns({ chat, edit }) {
  const box = useRef(null);
  const stuck = useRef(true);
  useEffect(() => {
    if (stuck.current) box.current.scrollTop = box.current.scrollHeight;
  }, [chat]);
  const scrolled = ({ target }) => {
    stuck.current = target.scrollTop + target.clientHeight > target.scrollHeight - 40;
  };
  const last = chat.turns.length - 1;
  return html`<div class="turns" ref=${box} onScroll=${scrolled} tabindex="0" role="region" aria-label=${t("chat.conversation")}>
    ${!chat.turns.length && html`<${Empty}>${t("chat.empty")}<//>`}
    ${chat.turns.map(
      (turn, i) => html`<article class="turn" key=${i}>
        <${Asked} turn=${turn} tools=${i === last && html`<${Again} chat=${chat} edit=${edit} />`} />
        <div class=${turn.answers.length > 1 ? "answers two" : "answers"}>${turn.answers.map((one, j) => html`<${Answer} key=${j} answer=${one} />`)}</div>
      </article>`,
    )}
  </div>`;
}

const Asked = ({ turn, tools }) => html`<div class="asked">
  <p>${turn.text}</p>
  ${turn.images.map((url, i) => html`<img key=${i} src=${url} alt=${t("chat.picture", { n: i + 1 })} />`)}
  ${tools}
</div>`;

const Again = ({ chat, edit }) => html`<span class="again">
  <button class="quiet" onClick=${edit}>${t("chat.edit")}</button>
  <button class="quiet" disabled=${busy(chat)} onClick=${again}>${t("chat.again")}</button>
</span>`;
