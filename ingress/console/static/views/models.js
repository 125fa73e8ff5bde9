// Every model: how it is and why, and the buttons.

import { t } from "../i18n.js";
import { connection, models } from "../models.js";
import { shown } from "../table.js";
import { html, useLanguage, useMemo, usePoll, useState, useStore } from "../ui.js";
import { Model } from "./model.js";
import { Empty, Notice } from "./parts.js";

const STATES = ["running", "starting", "stopping", "failed", "stopped"];
const MANY = 8;

export function Models() {
  useLanguage();
  const rows = useStore(models);
  const link = useStore(connection);
  const [text, setText] = useState("");
  const [state, setState] = useState("");
  const devices = usePoll("api/devices/info", 5000).data;
  const tokens = usePoll("api/requests?limit=1", 1000).data?.tokens_per_second;
  const seen = useMemo(() => (rows ? shown(rows, text, state) : []), [rows, text, state]);
  if (!rows) return html`<h1>${t("view.models")}</h1>${link.failure ? html`<${Notice} failure=${link.failure} />` : html`<${Waiting} />`}`;
  return html`<div class="head">
      <h1>${t("view.models")} <small>${summary(rows)}</small></h1>
      ${(rows.length > MANY || text || state) && html`<${Filter} text=${text} setText=${setText} state=${state} setState=${setState} />`}
    </div>
    <ul class="models">
      ${seen.map((row) => html`<${Model} key=${row.name} row=${row} devices=${devices} rate=${tokens?.[row.name]} known=${tokens != null} />`)}
    </ul>
    ${!seen.length && html`<${Empty}>${t(rows.length ? "models.none" : "models.empty")}<//>`}`;
}

const summary = (rows) => {
  const up = rows.filter((row) => row.status === "running").length;
  return t("models.summary", { up, all: rows.length });
};

const Waiting = () => html`<ul class="models" aria-busy="true">${[1, 2, 3].map((i) => html`<li class="model ghost" key=${i}></li>`)}</ul>`;

const Filter = ({ text, setText, state, setState }) => html`<search class="filter">
  <input type="search" aria-label=${t("models.search")} placeholder=${t("models.search")} value=${text} onInput=${(e) => setText(e.target.value)} />
  <select aria-label=${t("models.state")} value=${state} onChange=${(e) => setState(e.target.value)}>
    <option value="">${t("models.all")}</option>
    ${STATES.map((one) => html`<option key=${one} value=${one}>${t(`state.${one}`)}</option>`)}
  </select>
</search>`;
