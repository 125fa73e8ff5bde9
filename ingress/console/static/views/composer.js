// Where the next message is written, with its pictures.

import { t } from "../i18n.js";
import { html, useRef } from "../ui.js";

export function Composer({ draft, setDraft, busy, ready, say, stop }) {
  const file = useRef(null);
  const can = ready && !busy && Boolean(draft.text.trim() || draft.images.length);
  const add = async (files) => {
    const images = await Promise.all([...files].filter((one) => one.type.startsWith("image/")).map(dataUrl));
    if (images.length) setDraft((was) => ({ ...was, images: [...was.images, ...images] }));
  };
  const pressed = (event) => {
    if (event.key === "Escape" && busy) stop();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (can) say();
  };
  const without = (i) => setDraft((was) => ({ ...was, images: was.images.filter((_, j) => j !== i) }));
  return html`<form class="composer" onSubmit=${(e) => e.preventDefault()}>
    ${draft.images.length > 0 && html`<div class="thumbs">${draft.images.map(
      (url, i) => html`<button type="button" class="thumb" key=${i} aria-label=${t("chat.without", { n: i + 1 })} onClick=${() => without(i)}><img src=${url} alt="" /><span aria-hidden="true">✕</span></button>`,
    )}</div>`}
    <textarea rows="2" aria-label=${t("chat.message")} placeholder=${t("chat.message")} value=${draft.text}
      onInput=${(e) => setDraft((was) => ({ ...was, text: e.target.value }))} onKeyDown=${pressed} onPaste=${(e) => add(e.clipboardData.files)}></textarea>
    <div class="composer-tools">
      <input ref=${file} type="file" accept="image/*" multiple hidden onChange=${(e) => add(e.target.files)} />
      <button type="button" class="quiet" onClick=${() => file.current.click()}>${t("chat.image")}</button>
      ${busy
        ? html`<button type="button" class="main" onClick=${stop}>${t("chat.stop")}</button>`
        : html`<button type="button" class="main" disabled=${!can} onClick=${say}>${t("chat.send")}</button>`}
    </div>
  </form>`;
}

const dataUrl = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
