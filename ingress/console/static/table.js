// The table of models: what its stream tells, and what is shown of it. Pure.

const ORDER = { running: 0, starting: 1, stopping: 2, failed: 3, stopped: 4 };

/** rows after one event of /api/models/stream; each row knows when it was told (ms, this browser's clock). */
export function told(rows, event, now) {
  const at = (row) => ({ ...row, toldAt: now });
  if (event.type === "models") return event.models.map(at);
  if (event.type !== "model") return rows;
  const changed = at(event.model);
  const known = rows.some((row) => row.name === changed.name);
  return known ? rows.map((row) => (row.name === changed.name ? changed : row)) : [...rows, changed];
}

/** States that have changed: [{name, from, to}]. */
export function changes(before, after) {
  const was = new Map(before.map((row) => [row.name, row.status]));
  return after
    .filter((row) => was.has(row.name) && was.get(row.name) !== row.status)
    .map((row) => ({ name: row.name, from: was.get(row.name), to: row.status }));
}

/** Those that fit, the ones that are up first. */
export function shown(rows, text, state) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (row) => {
    const where = [row.name, ...row.aliases, row.engine, row.mode, row.pool ?? ""].join(" ").toLowerCase();
    return (!state || row.status === state) && words.every((word) => where.includes(word));
  };
  return rows
    .map((row, index) => [row, index])
    .filter(([row]) => fits(row))
    .sort(([a, i], [b, j]) => ORDER[a.status] - ORDER[b.status] || i - j)
    .map(([row]) => row);
}

/** A start's progress: {phase, seconds, share}; share of the last start's time, null if there was none. */
export function progress(row, now) {
  if (!row.loading) return null;
  const seconds = row.loading.seconds + Math.max(0, now - row.toldAt) / 1000;
  const last = row.loading.last_seconds;
  return { phase: row.loading.phase, seconds, last, share: last ? Math.min(0.98, seconds / last) : null };
}

/** Seconds for which it has been idle, and until it is unloaded; null if it is not idle. Whatever the server's clock says. */
export function idle(row, now) {
  if (row.status !== "running" || row.idle_seconds == null) return null;
  const seconds = row.idle_seconds + Math.max(0, now - row.toldAt) / 1000;
  const left = row.unloads_at == null ? null : Math.max(0, row.unloads_at - row.last_used_at - seconds);
  return { seconds, left };
}

/** MB of the nodes where a model is, or of all of them; null if nothing is known. nodes: of /api/devices/info. */
export function nodeMemory(row, nodes) {
  const own = nodes.filter((node) => (row.nodes ?? []).includes(node.address));
  const total = (own.length ? own : nodes).reduce((sum, node) => sum + memoryOf(node, row.engine), 0);
  return total || null;
}

function memoryOf(node, engine) {
  const devices = node.devices ?? {};
  const used = engine === "vllm" && devices.cuda?.info ? devices.cuda : devices.cpu;
  return used?.info?.memory_total ?? 0;
}

export const chatModels = (rows) => rows.filter((row) => row.mode === "chat");
