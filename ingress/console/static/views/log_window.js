// The lines that are in sight, of however many there are.

import { spans } from "../ansi.js";
import { clock } from "../format.js";
import { t } from "../i18n.js";
import { inSight } from "../lines.js";
import { html, useEffect, useLayoutEffect, useRef, useState, useStore } from "../ui.js";

const LINE = 18; // pixels, as in the style sheet
const NEAR = 2 * LINE;

export function Window({ log, label }) {
  const box = useRef(null);
  const { version, gone } = useStore(log.drawn);
  const [at, setAt] = useState({ top: 0, height: 600 });
  const [follows, setFollows] = useState(true);
  const count = log.lines.count;
  useLayoutEffect(() => {
    const element = box.current;
    if (follows) element.scrollTop = count * LINE;
    else if (gone) element.scrollTop -= gone * LINE;
  }, [version, follows]);
  useEffect(() => {
    const watcher = new ResizeObserver(([entry]) => setAt((was) => ({ ...was, height: entry.contentRect.height })));
    watcher.observe(box.current);
    return () => watcher.disconnect();
  }, []);
  const scrolled = (event) => {
    const { scrollTop, scrollHeight, clientHeight } = event.target;
    const atEnd = scrollTop + clientHeight >= scrollHeight - NEAR;
    setFollows((was) => atEnd || (was && scrollTop >= at.top)); // new lines move the end, only people move up
    setAt({ top: scrollTop, height: clientHeight });
  };
  const top = follows ? Math.max(0, count * LINE - at.height) : at.top;
  const { from, to } = inSight(count, top, at.height, LINE);
  return html`<div class="log-frame">
    <div class="log" ref=${box} role="log" aria-live="off" aria-label=${label} tabindex="0" onScroll=${scrolled}>
      <div class="log-all" style=${{ height: `${count * LINE}px` }}>
        <div class="log-seen" style=${{ transform: `translateY(${from * LINE}px)` }}>
          ${log.lines.slice(from, to).map((line, i) => html`<${Line} key=${from + i} line=${line} />`)}
        </div>
      </div>
      ${count === 0 && html`<p class="empty">${t("logs.empty")}</p>`}
    </div>
    ${!follows && html`<button class="main to-end" onClick=${() => setFollows(true)}>${t("logs.follow")}</button>`}
  </div>`;
}

const Line = ({ line }) => html`<div class=${`line is-${line.level}`}>
  <time>${clock(line.timestamp, { millis: true })}</time><span class="level">${line.level}</span><span>${spans(line.message).map(
    ({ text, classes }) => (classes ? html`<span class=${classes}>${text}</span>` : text),
  )}</span>
</div>`;
