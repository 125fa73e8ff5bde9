// How the answers are sampled, and what the models are told first.

import { t } from "../i18n.js";
import { change } from "../talk.js";
import { html } from "../ui.js";

const NUMBERS = [
  ["temperature", { min: 0, max: 2, step: 0.1 }],
  ["top_p", { min: 0, max: 1, step: 0.05 }],
  ["max_tokens", { min: 1, step: 1 }],
  ["seed", { step: 1 }],
];

export function Settings({ chat }) {
  const put = (name) => (event) => change({ settings: { ...chat.settings, [name]: event.target.value } });
  return html`<details class="settings">
    <summary>${t("chat.settings")}${chat.system.trim() && html` <span class="tag">${t("chat.system")}</span>`}</summary>
    <div class="settings-all">
      <label class="wide">${t("chat.system")}<textarea rows="2" value=${chat.system} onInput=${(e) => change({ system: e.target.value })}></textarea></label>
      ${NUMBERS.map(
        ([name, range]) => html`<label key=${name}>${name}<input type="number" ...${range} placeholder=${t("chat.default")} value=${chat.settings[name]} onInput=${put(name)} /></label>`,
      )}
      <label class="wide">${t("chat.tools")}<textarea rows="2" spellcheck=${false} value=${chat.settings.tools} onInput=${put("tools")}></textarea></label>
    </div>
  </details>`;
}
