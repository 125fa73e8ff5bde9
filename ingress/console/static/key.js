// The key that the server is asked with: kept for this tab alone, asked for when the server wants one.

import { store } from "./store.js";

const KEPT = "llm-manager.key";

/** What the dialog shows while it is open: {message}; else null. */
export const asking = store(null);

/** How many keys have been given: what was refused before may be asked again. */
export const given = store(0);

let answer = null;
let refused = false;

export const key = () => sessionStorage.getItem(KEPT) ?? "";

/** Whether there is another key to try with. Who asks while the dialog is open waits for the same answer. */
export function wanted(message, used) {
  if (key() !== used) return Promise.resolve(true);
  if (refused) return Promise.resolve(false);
  if (!answer) {
    answer = {};
    answer.promise = new Promise((resolve) => (answer.resolve = resolve));
    asking.set({ message });
  }
  return answer.promise;
}

export function give(text) {
  refused = !text;
  if (text) sessionStorage.setItem(KEPT, text);
  asking.set(null);
  answer?.resolve(Boolean(text));
  answer = null;
  if (text) given.set((n) => n + 1);
}

/** Opens the dialog because somebody wants to give one. */
export function offer() {
  asking.set({ message: "" });
}
