// Small things that several views are made of.

import { t } from "../i18n.js";
import { percent } from "../format.js";
import { html, useEffect, useRef, useState } from "../ui.js";

export const Badge = ({ state }) =>
  html`<span class=${`badge is-${state}`}><span class="dot" aria-hidden="true"></span>${t(`state.${state}`)}</span>`;

/** A failure of the server, in words that say what to do. */
export function Notice({ failure, kind = "error" }) {
  if (!failure) return null;
  return html`<p class=${`notice ${kind}`} role="status">${words(failure)}</p>`;
}

export function words(failure) {
  if (!failure.status && !failure.code) return t("error.away");
  if (failure.status === 401) return t("error.key");
  if (failure.code === "keys_required") return `${t("error.keysRequired")} ${failure.message}`;
  if (failure.status === 403) return `${t("error.right")} ${failure.message}`;
  if (failure.status === 404 && failure.code === "route_not_found") return t("error.route");
  return failure.message;
}

export const Empty = ({ children }) => html`<p class="empty">${children}</p>`;

/** A bar of how much of a whole is taken. */
export function Bar({ value, whole, label, tone = "" }) {
  const share = percent(value ?? 0, whole ?? 0);
  return html`<span class="bar-track" role="img" aria-label=${label}>
    <span class=${`bar-fill ${tone}`} style=${{ width: `${share}%` }}></span>
  </span>`;
}

/** A dialog that is open as long as it is there. */
export function Dialog({ title, close, children }) {
  const ref = useRef(null);
  useEffect(() => {
    ref.current.showModal();
  }, []);
  return html`<dialog ref=${ref} aria-label=${title} onClose=${close} onClick=${(e) => e.target === ref.current && close()}>
    <div class="dialog">
      <header><h2>${title}</h2><button class="quiet icon" aria-label=${t("close")} onClick=${close}>✕</button></header>
      ${children}
    </div>
  </dialog>`;
}

export function Copy({ text }) {
  const [done, set] = useState(false);
  useEffect(() => {
    if (!done) return undefined;
    const timer = setTimeout(() => set(false), 2000);
    return () => clearTimeout(timer);
  }, [done]);
  const copy = async () => {
    await copied(text);
    set(true);
  };
  return html`<button class="quiet" onClick=${copy}>${done ? t("copied") : t("copy")}</button>`;
}

/** navigator.clipboard is there on secure pages only. */
async function copied(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = Object.assign(document.createElement("textarea"), { value: text });
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  return undefined;
}
