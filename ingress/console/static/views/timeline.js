// Which model was resident when, and why it came and went: lanes to look at, a table to read.

import { clock, span } from "../format.js";
import { t } from "../i18n.js";
import { lanes, ticks } from "../timeline.js";
import { html, useState } from "../ui.js";
import { Empty } from "./parts.js";

export function Timeline({ history }) {
  const { since, until, residency } = history;
  const [pointed, point] = useState(null);
  const found = lanes(residency, since, until);
  if (!found.length) return html`<${Empty}>${t("timeline.empty")}<//>`;
  return html`<div class="timeline" onKeyDown=${moved}>
      ${found.map((lane) => html`<${Lane} key=${lane.model} lane=${lane} point=${point} />`)}
      <div class="ticks" aria-hidden="true">${ticks(since, until).map(
        (at) => html`<span key=${at} style=${{ left: `${(100 * (at - since)) / (until - since)}%` }}>${clock(at).slice(0, 5)}</span>`,
      )}</div>
    </div>
    <p class="pointed" role="status">${pointed ? said(pointed) : html`<span class="hint">${t("timeline.hint")}</span>`}</p>
    <ul class="legend" aria-hidden="true">${["starting", "running", "stopping"].map((one) => html`<li key=${one}><span class=${`swatch is-${one}`}></span>${t(`state.${one}`)}</li>`)}</ul>
    <${Table} found=${found} />`;
}

/** One stop of the tabulator a lane; arrows go along it. */
const Lane = ({ lane, point }) => html`<div class="lane">
  <span class="lane-name">${lane.model}</span>
  <div class="lane-bars" role="group" aria-label=${lane.model}>
    ${lane.bars.map(
      (bar, i) => html`<button key=${bar.from} class=${`bar is-${bar.state}`} aria-label=${said(bar)} tabindex=${i === lane.bars.length - 1 ? 0 : -1}
        style=${{ left: `${bar.left}%`, width: `${bar.width}%` }}
        onMouseEnter=${() => point(bar)} onFocus=${() => point(bar)} onMouseLeave=${() => point(null)} onBlur=${() => point(null)}></button>`,
    )}
  </div>
</div>`;

function moved(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const bars = [...event.target.parentElement.querySelectorAll("button.bar")];
  const next = step && bars[bars.indexOf(event.target) + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
}

function said(bar) {
  const until = bar.until == null ? t("timeline.still") : clock(bar.until);
  const length = bar.until == null ? "" : ` (${span(bar.until - bar.from)})`;
  const reason = bar.reason ? ` · ${bar.reason}` : "";
  return `${bar.model}: ${t(`state.${bar.state}`)} ${clock(bar.from)} – ${until}${length}${reason}`;
}

const Table = ({ found }) => html`<details class="as-table">
  <summary>${t("timeline.table")}</summary>
  <div class="scroll" tabindex="0" role="region" aria-label=${t("timeline.table")}><table>
    <thead><tr>${["model", "state", "from", "until", "reason"].map((one) => html`<th key=${one} scope="col">${t(`timeline.${one}`)}</th>`)}</tr></thead>
    <tbody>${found
      .flatMap((lane) => lane.bars)
      .sort((a, b) => b.from - a.from)
      .map((bar) => html`<tr key=${`${bar.model} ${bar.from}`}>
        <th scope="row">${bar.model}</th><td>${t(`state.${bar.state}`)}</td><td>${clock(bar.from)}</td>
        <td>${bar.until == null ? t("timeline.still") : clock(bar.until)}</td><td>${bar.reason}</td>
      </tr>`)}</tbody>
  </table></div>
</details>`;
