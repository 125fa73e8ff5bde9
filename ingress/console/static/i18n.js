// The words of the page, in the languages that it speaks.

import { store } from "./store.js";
import { EN } from "./strings/en.js";
import { ZH } from "./strings/zh.js";

export const TABLES = { en: EN, zh: ZH };
const KEPT = "llm-manager.language";

export const language = store("en");

/** The first of the wanted languages that there is. */
export function chosen(wanted) {
  return wanted.map((one) => one.toLowerCase().split("-")[0]).find((one) => one in TABLES) ?? "en";
}

/** The words for a key, in the language that holds; {name} in them is put in from `values`. */
export function t(key, values = {}) {
  return said(TABLES[language.get()], key, values);
}

export function said(table, key, values = {}) {
  return (table[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export function speak(code) {
  document.documentElement.lang = code === "zh" ? "zh-Hans" : "en";
  localStorage.setItem(KEPT, code);
  language.set(code);
}

export function speakAsKept() {
  speak(chosen([localStorage.getItem(KEPT) ?? "", ...navigator.languages]));
}
