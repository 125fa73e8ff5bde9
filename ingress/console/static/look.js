// Light or dark: as the system has it, or as was chosen here.

import { store } from "./store.js";

const KEPT = "llm-manager.theme";
const THEMES = ["system", "light", "dark"];

export const theme = store("system");

export function wear(name) {
  const known = THEMES.includes(name) ? name : "system";
  if (known === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = known;
  localStorage.setItem(KEPT, known);
  theme.set(known);
}

export const wearAsKept = () => wear(localStorage.getItem(KEPT) ?? "system");

export const wearNext = () => wear(THEMES[(THEMES.indexOf(theme.get()) + 1) % THEMES.length]);
