// One answer of a model. What it has written is text, whatever it says.

import { figures } from "../chat.js";
import { ms, rate } from "../format.js";
import { t } from "../i18n.js";
import { indented, parts } from "../prose.js";
import { html, useMemo } from "../ui.js";
import { Copy, words } from "./parts.js";

export function Answer({ answer }) {
  const written = useMemo(() => parts(answer.text), [answer.text]);
  const live = answer.state === "waiting" || answer.state === "streaming";
  return html`<section class=${`answer is-${answer.state}`} aria-busy=${live}>
    <h3>${answer.model}</h3>
    ${answer.reasoning && html`<details class="reasoning"><summary>${t("chat.reasoning")}</summary><p>${answer.reasoning}</p></details>`}
    ${written.map((part, i) => html`<${Part} key=${i} part=${part} />`)}
    ${answer.tools.map((call, i) => html`<${Call} key=${i} call=${call} />`)}
    ${live && html`<span class="cursor" role="status" aria-label=${t(`chat.${answer.state}`)}></span>`}
    ${answer.error && html`<p class="notice error" role="alert">${words(answer.error)}</p>`}
    ${!live && html`<${Foot} answer=${answer} />`}
  </section>`;
}

const Part = ({ part }) =>
  part.kind === "text"
    ? html`<p>${part.text.trim()}</p>`
    : html`<div class="code"><div class="code-head"><span>${part.language}</span><${Copy} text=${part.text} /></div><pre tabindex="0">${part.text}</pre></div>`;

const Call = ({ call }) => html`<div class="code call">
  <div class="code-head"><span>${t("chat.call", { name: call.name })}</span><${Copy} text=${call.arguments} /></div>
  <pre tabindex="0">${indented(call.arguments) ?? call.arguments}</pre>
</div>`;

function Foot({ answer }) {
  const { ttft, tokens, rate: speed } = figures(answer);
  const told = [
    ttft != null && t("chat.ttft", { time: ms(ttft) }),
    speed != null && t("chat.speed", { rate: rate(speed) }),
    tokens && t("chat.tokens", { n: tokens }),
    answer.finish && answer.finish !== "stop" && t("chat.finish", { why: answer.finish }),
    answer.state === "stopped" && t("chat.stopped"),
  ];
  return html`<p class="foot">${told.filter(Boolean).join(" · ")} ${answer.text && html`<${Copy} text=${answer.text} />`}</p>`;
}
