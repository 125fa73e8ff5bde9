// Which model was resident when: lanes of bars over a stretch of time. Pure.

/** [{model, bars: [{state, from, until, reason, left, width}]}]: left and width are percents of the stretch. */
export function lanes(residency, since, until) {
  const found = new Map();
  const length = Math.max(1, until - since);
  for (const one of residency) {
    const from = Math.max(since, one.from);
    const to = Math.min(until, one.until ?? until);
    if (to < since || from > until) continue;
    const bar = { ...one, left: (100 * (from - since)) / length, width: (100 * Math.max(0, to - from)) / length };
    if (!found.has(one.model)) found.set(one.model, []);
    found.get(one.model).push(bar);
  }
  const ordered = [...found].map(([model, bars]) => ({ model, bars: bars.sort((a, b) => a.from - b.from) }));
  return ordered.sort((a, b) => a.bars[0].from - b.bars[0].from || a.model.localeCompare(b.model));
}

/** Times to mark, at most `most` of them. */
export function ticks(since, until, most = 6) {
  const step = [10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400].find((s) => (until - since) / s <= most) ?? 28800;
  const found = [];
  for (let at = Math.ceil(since / step) * step; at <= until; at += step) found.push(at);
  return found;
}

/** Of each time the sum over all models, null where none is known. */
export function summed(models, what) {
  const lists = Object.values(models).map((one) => one[what] ?? []);
  const length = Math.max(0, ...lists.map((list) => list.length));
  return Array.from({ length }, (_, i) => {
    const known = lists.map((list) => list[i]).filter((value) => value != null);
    return known.length ? known.reduce((a, b) => a + b, 0) : null;
  });
}
