// Lines over the last quarter of an hour.

import Plot from "../../vendor/uplot.js";
import { clock, number, rate, size } from "../format.js";
import { t } from "../i18n.js";
import { theme } from "../look.js";
import { summed } from "../timeline.js";
import { html, useEffect, useRef, useStore } from "../ui.js";

const COLOURS = ["--accent", "--chart-2", "--chart-3", "--chart-4", "--chart-5", "--chart-6"];
const HEIGHT = 120;

export function Charts({ history }) {
  const { times, models, nodes } = history;
  const spoke = Object.entries(models).filter(([, one]) => one.tokens_per_s?.some((value) => value));
  const memory = Object.entries(nodes).map(([name, one]) => [name, one.memory_used_mb]);
  const queue = [
    [t("model.waiting"), summed(models, "waiting")],
    [t("model.running"), summed(models, "running")],
  ];
  return html`<div class="charts">
    <${Chart} title=${t("charts.tokens")} times=${times} lines=${spoke.map(([name, one]) => [name, one.tokens_per_s])} format=${rate} />
    <${Chart} title=${t("charts.queue")} times=${times} lines=${queue} format=${number} />
    <${Chart} title=${t("charts.memory")} times=${times} lines=${memory} format=${size} />
  </div>`;
}

function Chart({ title, times, lines, format }) {
  const box = useRef(null);
  const plot = useRef(null);
  const worn = useStore(theme);
  const names = lines.map(([name]) => name).join("\n");
  useEffect(() => {
    plot.current = new Plot(options(box.current, lines, format), data(times, lines), box.current);
    const watcher = new ResizeObserver(([entry]) => plot.current.setSize({ width: entry.contentRect.width, height: HEIGHT }));
    watcher.observe(box.current);
    return () => {
      watcher.disconnect();
      plot.current.destroy();
    };
  }, [names, worn]);
  useEffect(() => plot.current.setData(data(times, lines)), [times]);
  const now = lines.map(([name, values]) => `${name} ${format(values?.at(-1))}`).join(", ");
  return html`<figure class="chart">
    <figcaption>${title}</figcaption>
    <div ref=${box} role="img" aria-label=${`${title}: ${now || t("charts.nothing")}`}></div>
    <ul class="legend">${lines.map(
      ([name, values], i) => html`<li key=${name}><span class="swatch" style=${{ background: `var(${colour(i)})` }}></span>${name} <span class="figure">${format(values?.at(-1))}</span></li>`,
    )}</ul>
  </figure>`;
}

const colour = (i) => COLOURS[i % COLOURS.length];

const data = (times, lines) => [times, ...lines.map(([, values]) => values ?? times.map(() => null))];

function options(box, lines, format) {
  const style = getComputedStyle(box);
  const axis = { stroke: style.color, grid: { stroke: paint(box, "--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  return {
    width: box.clientWidth,
    height: HEIGHT,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 5 } },
    scales: { y: { range: (_, __, top) => [0, Math.max(1, top * 1.1)] } },
    axes: [
      { ...axis, size: 24, values: (_, times) => times.map((at) => clock(at).slice(0, 5)), space: 60 },
      { ...axis, values: (_, marks) => marks.map(format), size: 56, space: 26 },
    ],
    series: [{}, ...lines.map(([label], i) => ({ label, stroke: paint(box, colour(i)), width: 1.5, points: { show: false } }))],
  };
}

/** A colour as a canvas takes it: light-dark() is settled by the browser. */
function paint(box, name) {
  box.style.outlineColor = `var(${name})`;
  const settled = getComputedStyle(box).outlineColor;
  box.style.outlineColor = "";
  return settled;
}
