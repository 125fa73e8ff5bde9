// What surrounds every view: the bar, the tabs, the dialogs, and what is said aloud.

import { language, speak, t, TABLES } from "../i18n.js";
import { asking, give, given, key, offer } from "../key.js";
import { theme, wearNext } from "../look.js";
import { changed, connection } from "../models.js";
import { read, VIEWS, write } from "../route.js";
import { html, useEffect, useLanguage, useRef, useState, useStore } from "../ui.js";
import { Chat } from "./chat.js";
import { Devices } from "./devices.js";
import { Logs } from "./logs.js";
import { Models } from "./models.js";
import { Dialog, words } from "./parts.js";
import { Requests } from "./requests.js";

const SHOWN = { models: Models, chat: Chat, requests: Requests, logs: Logs, devices: Devices };
const ICON = new URL("../icon.svg", import.meta.url).href;
const ICONS = {
  models: "M4 5h16v5H4zM4 14h16v5H4zM7 7.5h.01M7 16.5h.01",
  chat: "M4 5h16v11H9l-5 4z",
  requests: "M4 7h12m-4-4 4 4-4 4M20 17H8m4 4-4-4 4-4",
  logs: "M5 6h14M5 10h14M5 14h9M5 18h11",
  devices: "M7 7h10v10H7zM10 3v4m4-4v4m-4 10v4m4-4v4M3 10h4m-4 4h4m10-4h4m-4 4h4",
};

export function Shell() {
  useLanguage();
  const [route, setRoute] = useState(read(location.hash));
  const [help, setHelp] = useState(false);
  const keys = useStore(given);
  const main = useRef(null);
  useEffect(() => {
    const moved = () => setRoute(read(location.hash));
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  useEffect(() => {
    const pressed = (event) => shortcut(event, () => setHelp(true));
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
  useEffect(() => {
    document.title = `${t(`view.${route.view}`)} · LLM-Manager`;
  });
  const View = SHOWN[route.view];
  const skip = (event) => {
    event.preventDefault();
    main.current.focus();
  };
  return html`<a class="skip" href="#main" onClick=${skip}>${t("skip")}</a>
    <${Header} help=${() => setHelp(true)} />
    <${Tabs} view=${route.view} />
    <main id="main" ref=${main} tabindex="-1" class=${`view-${route.view}`}><${View} key=${`${route.view} ${keys}`} query=${route.query} /></main>
    <${Aloud} />
    <${KeyDialog} />
    ${help && html`<${Help} close=${() => setHelp(false)} />`}`;
}

function shortcut(event, help) {
  const typing = event.target.closest?.("input, textarea, select, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const view = VIEWS[Number(event.key) - 1];
  if (view) location.hash = write(view);
  else if (event.key === "?") help();
  else if (event.key === "t") wearNext();
  else if (event.key === "/") {
    event.preventDefault();
    document.querySelector("main input[type=search], main textarea")?.focus();
  }
}

function Header({ help }) {
  const worn = useStore(theme);
  const spoken = useStore(language);
  const codes = Object.keys(TABLES);
  const other = codes[(codes.indexOf(spoken) + 1) % codes.length];
  return html`<header class="bar">
    <a class="brand" href=${write("models")}><img src=${ICON} alt="" width="20" height="20" />LLM-Manager</a>
    <${Connection} />
    <span class="tools">
      <button class="quiet" onClick=${offer}>${t("key")}</button>
      <button class="quiet" lang=${other} onClick=${() => speak(other)}>${TABLES[other].language}</button>
      <button class="quiet" onClick=${wearNext} aria-label=${`${t("theme")}: ${t(`theme.${worn}`)}`}>${t(`theme.${worn}`)}</button>
      <button class="quiet icon" onClick=${help} aria-label=${t("help")} aria-keyshortcuts="?">?</button>
    </span>
  </header>`;
}

function Connection() {
  const { state, failure } = useStore(connection);
  if (state !== "away") return html`<span class="connection" role="status">${state === "open" ? "" : t("connecting")}</span>`;
  return html`<span class="connection is-away" role="status">${failure ? words(failure) : t("error.away")} ${t("retrying")}</span>`;
}

const Tabs = ({ view }) => html`<nav class="tabs" aria-label=${t("views")}>
  ${VIEWS.map(
    (name, i) => html`<a key=${name} href=${write(name)} aria-current=${name === view ? "page" : undefined} aria-keyshortcuts=${i + 1}>
      <svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true"><path d=${ICONS[name]} /></svg><span>${t(`view.${name}`)}</span>
    </a>`,
  )}
</nav>`;

function Aloud() {
  const news = useStore(changed);
  const said = news.map(({ name, to }) => `${name}: ${t(`state.${to}`)}`).join(". ");
  return html`<p class="unseen" role="status" aria-live="polite">${said}</p>`;
}

function KeyDialog() {
  const wanted = useStore(asking);
  if (!wanted) return null;
  const submitted = (event) => {
    event.preventDefault();
    give(new FormData(event.target).get("key").trim());
  };
  return html`<${Dialog} title=${t("key.title")} close=${() => give("")}>
    <form onSubmit=${submitted} class="stack">
      <p>${wanted.message || t("key.why")}</p>
      <label>${t("key")}<input name="key" type="password" autocomplete="off" spellcheck=${false} value=${key()} autofocus required /></label>
      <p class="hint">${t("key.kept")}</p>
      <button class="main">${t("key.use")}</button>
    </form>
  <//>`;
}

const Help = ({ close }) => html`<${Dialog} title=${t("help.title")} close=${close}>
  <dl class="keys">
    ${VIEWS.map((name, i) => html`<dt><kbd>${i + 1}</kbd></dt><dd>${t(`view.${name}`)}</dd>`)}
    <dt><kbd>/</kbd></dt><dd>${t("help.search")}</dd>
    <dt><kbd>t</kbd></dt><dd>${t("theme")}</dd>
    <dt><kbd>Enter</kbd></dt><dd>${t("help.send")}</dd>
    <dt><kbd>Shift</kbd> <kbd>Enter</kbd></dt><dd>${t("help.line")}</dd>
    <dt><kbd>Esc</kbd></dt><dd>${t("help.escape")}</dd>
    <dt><kbd>?</kbd></dt><dd>${t("help.title")}</dd>
  </dl>
<//>`;
