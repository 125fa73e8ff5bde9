// Server-sent events read with fetch: an EventSource cannot send a key.

import { open } from "./api.js";
import { Events } from "./sse.js";

const WAITS_MS = [500, 1000, 2000, 5000, 10_000];

/** Calls `event` with the data of each event, until the answer ends. Throws Failure. */
export async function read(path, event, options) {
  const response = await open(path, options);
  const events = new Events();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    for (const data of events.take(value)) event(data);
  }
}

/**
 * Reads again and again, later each time that nothing has come; returns what ends it.
 * state: told "open" at the first event, and "away" with the failure when it is lost. Return false to be left alone.
 */
export function follow(path, event, state) {
  const gone = new AbortController();
  void (async () => {
    for (let failed = 0; !gone.signal.aborted; failed++) {
      let failure = null;
      try {
        await read(
          path,
          (data) => {
            if (failed >= 0) state("open");
            failed = -1;
            event(JSON.parse(data));
          },
          { signal: gone.signal },
        );
      } catch (error) {
        failure = error;
      }
      if (gone.signal.aborted || state("away", failure) === false) return;
      await new Promise((resolve) => setTimeout(resolve, WAITS_MS[Math.min(Math.max(failed, 0), WAITS_MS.length - 1)]));
    }
  })();
  return () => gone.abort();
}
