// The nodes and what they have, the last quarter of an hour, and which model was resident when.

import { size } from "../format.js";
import { t } from "../i18n.js";
import { html, useEffect, useLanguage, usePoll, useState } from "../ui.js";
import { Bar, Notice } from "./parts.js";
import { Timeline } from "./timeline.js";

export function Devices() {
  useLanguage();
  const devices = usePoll("api/devices/info", 2000);
  const history = usePoll("api/history?range=15m", 5000);
  return html`<h1>${t("view.devices")}</h1>
    <${Notice} failure=${devices.failure} />
    <ul class="nodes">${(devices.data?.nodes ?? []).map((node) => html`<${Node} key=${node.node_id} node=${node} />`)}</ul>
    <section aria-labelledby="residency"><h2 id="residency">${t("timeline.title")}</h2>
      ${history.failure ? html`<${Notice} failure=${history.failure} kind="info" />` : history.data && html`<${Timeline} history=${history.data} />`}
    </section>
    ${history.data && html`<section aria-labelledby="charts"><h2 id="charts">${t("charts.title")}</h2><${Lazy} history=${history.data} /></section>`}`;
}

/** Charts are drawn by a library that no other view needs. */
function Lazy({ history }) {
  const [Charts, set] = useState(null);
  useEffect(() => {
    void import("./charts.js").then((module) => set(() => module.Charts));
  }, []);
  return Charts && html`<${Charts} history=${history} />`;
}

function Node({ node }) {
  const { cpu, cuda, mlx } = node.devices ?? {};
  return html`<li class=${node.online ? "node" : "node is-off"}>
    <h2>${node.host_name} <small>${node.address}${node.head ? ` · ${t("node.head")}` : ""}</small></h2>
    ${!node.online && html`<p class="reason is-bad">${t("node.off")} ${node.error}</p>`}
    ${cpu?.info && html`<${Gauge} name=${t("node.cpu", { n: cpu.info.cpu_count })} value=${cpu.info.utilization} whole=${100} text=${`${Math.round(cpu.info.utilization)} %`} />`}
    ${cpu?.info && html`<${Gauge} name=${t("memory")} value=${cpu.info.memory_used} whole=${cpu.info.memory_total} text=${of(cpu.info)} />`}
    ${mlx?.info && html`<${Gauge} name=${mlx.info.device_name} value=${mlx.info.memory_used} whole=${mlx.info.memory_total} text=${of(mlx.info)} />`}
    ${(cuda?.info?.devices ?? []).map((gpu) => html`<${Gpu} key=${gpu.index} gpu=${gpu} />`)}
    ${[cpu, cuda, mlx].map((one) => one?.error && html`<p class="reason is-bad">${one.error}</p>`)}
  </li>`;
}

function Gpu({ gpu }) {
  if (!gpu.online) return html`<p class="reason is-bad">GPU ${gpu.index}: ${gpu.error}</p>`;
  const more = [gpu.utilization != null && `${Math.round(gpu.utilization)} %`, gpu.temperature != null && `${gpu.temperature} °C`, gpu.power != null && `${Math.round(gpu.power)} W`];
  return html`<div>
    <${Gauge} name=${`GPU ${gpu.index}: ${gpu.name}`} value=${gpu.memory_used} whole=${gpu.memory_total} text=${of(gpu)} />
    <p class="hint">${more.filter(Boolean).join(" · ")}</p>
  </div>`;
}

const of = (info) => `${size(info.memory_used)} / ${size(info.memory_total)}`;

const Gauge = ({ name, value, whole, text }) => html`<div class="gauge">
  <span>${name}</span><span class="figure">${text}</span>
  <${Bar} value=${value} whole=${whole} label=${`${name}: ${text}`} tone=${value > 0.9 * whole ? "is-hot" : ""} />
</div>`;
