// A model's log that is followed: its lines arrive in bursts, and are told of once a frame.

import { named } from "./api.js";
import { Lines } from "./lines.js";
import { models } from "./models.js";
import { follow } from "./stream.js";
import { store } from "./store.js";

const TICK_MS = 250;
const UP = new Set(["starting", "running"]);

export function followed(model) {
  const lines = new Lines();
  const state = store({ state: "connecting", total: 0, count: 0, failure: null });
  const drawn = store({ version: 0, gone: 0 });
  let waiting = [];
  let frame = 0;
  let fresh = true;
  let stop = () => {};
  let toldAt = 0;

  const say = (more = {}) => state.set((was) => ({ ...was, ...more, total: lines.total, count: lines.count }));
  const draw = (gone = 0) => drawn.set((was) => ({ version: was.version + 1, gone }));
  const flush = () => {
    frame = 0;
    const gone = lines.add(waiting.splice(0));
    draw(gone);
    if (performance.now() - toldAt > TICK_MS) {
      toldAt = performance.now();
      say();
    }
  };
  const event = (one) => {
    if (fresh) lines.clear(); // each stream begins with all that is kept
    fresh = false;
    if (one.log) waiting.push(one.log);
    if (one.type === "stream_end") say({ state: "ended" });
    if (one.type === "historical_complete") say({ state: "following" });
    frame ||= requestAnimationFrame(flush);
  };
  const begin = () => {
    fresh = true;
    stop = follow(`api/models/${named(model)}/logs/stream`, event, (now, failure = null) => {
      if (now === "open") return say({ failure: null });
      fresh = true;
      if (!failure && state.get().state === "ended") return false;
      return say({ state: "connecting", failure });
    });
  };
  const wake = (rows) => {
    const up = rows?.some((row) => row.name === model && UP.has(row.status));
    if (!up || state.get().state !== "ended") return;
    say({ state: "connecting" });
    stop();
    begin();
  };

  return {
    state,
    drawn,
    lines,
    start() {
      begin();
      const forget = models.subscribe(wake);
      const timer = setInterval(say, 2 * TICK_MS);
      return () => {
        forget();
        clearInterval(timer);
        cancelAnimationFrame(frame);
        stop();
      };
    },
    want(level, text) {
      lines.want(level, text);
      say();
      draw();
    },
    clear() {
      lines.clear();
      waiting = [];
      say();
      draw();
    },
  };
}
