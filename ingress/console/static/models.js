// The models as the server tells of them, for all views, and what operators do with them.

import { ask, named } from "./api.js";
import { follow } from "./stream.js";
import { store } from "./store.js";
import { changes, told } from "./table.js";

const CLOCKS_MS = 5000;

/** Rows of the table; null before the first ones. */
export const models = store(null);

/** {state: "connecting" | "open" | "away", failure}. */
export const connection = store({ state: "connecting", failure: null });

/** Names of models whose states have just changed: [{name, from, to}]. */
export const changed = store([]);

export function watch() {
  const event = (one) => put(told(models.get() ?? [], one, Date.now()));
  const state = (now, failure = null) => connection.set({ state: now, failure });
  follow("api/models/stream", event, state);
  setInterval(refresh, CLOCKS_MS);
}

/** The stream tells of changes, not of clocks that run. */
async function refresh() {
  if (document.visibilityState !== "visible" || connection.get().state !== "open") return;
  try {
    put(told([], { type: "models", models: (await ask("api/models")).models }, Date.now()));
  } catch {
    // The stream says so, if the server is away.
  }
}

function put(rows) {
  const news = changes(models.get() ?? [], rows);
  models.set(rows);
  if (news.length) changed.set(news);
}

/** what: start, stop, pin, unpin. Throws Failure. */
export const act = (name, what) => ask(`api/models/${named(name)}/${what}?wait=false`, { method: "POST" });
