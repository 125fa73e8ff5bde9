// The log of one model, as it is written.

import { ask, named } from "../api.js";
import { t } from "../i18n.js";
import { models } from "../models.js";
import { KEPT } from "../lines.js";
import { html, useEffect, useLanguage, useState, useStore } from "../ui.js";
import { followed } from "../following.js";
import { write } from "../route.js";
import { Empty, words } from "./parts.js";
import { Window } from "./log_window.js";

const LEVELS = ["", "info", "warning", "error"];

export function Logs({ query }) {
  useLanguage();
  const rows = useStore(models) ?? [];
  const model = query.model ?? rows[0]?.name ?? "";
  const pick = (event) => (location.hash = write("logs", { model: event.target.value }));
  return html`<div class="head">
      <h1>${t("view.logs")}</h1>
      <select aria-label=${t("model")} value=${model} onChange=${pick}>
        ${rows.map((row) => html`<option key=${row.name} value=${row.name}>${row.name}</option>`)}
      </select>
    </div>
    ${model ? html`<${Log} key=${model} model=${model} />` : html`<${Empty}>${t("models.empty")}<//>`}`;
}

function Log({ model }) {
  const [log] = useState(() => followed(model));
  const state = useStore(log.state);
  const [level, setLevel] = useState("");
  const [text, setText] = useState("");
  const [failure, setFailure] = useState(null);
  useEffect(() => log.start(), [log]);
  useEffect(() => log.want(level, text), [log, level, text]);
  const clear = async () => {
    setFailure(null);
    try {
      await ask(`api/logs/${named(model)}/clear`, { method: "POST" });
      log.clear();
    } catch (error) {
      setFailure(error);
    }
  };
  return html`<search class="filter">
      <input type="search" aria-label=${t("logs.search")} placeholder=${t("logs.search")} value=${text} onInput=${(e) => setText(e.target.value)} />
      <select aria-label=${t("logs.level")} value=${level} onChange=${(e) => setLevel(e.target.value)}>
        ${LEVELS.map((one) => html`<option key=${one} value=${one}>${t(`logs.from${one || "all"}`)}</option>`)}
      </select>
      <button class="quiet" onClick=${clear}>${t("logs.clear")}</button>
      <span class="hint" role="status">${said(state)}</span>
    </search>
    ${(failure || state.failure) && html`<p class="notice error" role="alert">${words(failure ?? state.failure)}</p>`}
    <${Window} log=${log} label=${t("logs.of", { name: model })} />`;
}

function said({ state, total, count }) {
  const lines = count === total ? t("logs.lines", { n: total }) : t("logs.some", { n: count, of: total });
  const full = total >= KEPT ? ` ${t("logs.full")}` : "";
  return `${t(`logs.${state}`)} · ${lines}${full}`;
}
