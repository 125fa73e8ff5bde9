// Numbers, sizes and times as people read them.

const MB = 2 ** 20;
export const NONE = "–";

export function size(mb) {
  if (mb == null) return NONE;
  return mb >= 1024 ? `${(mb / 1024).toFixed(mb >= 10240 ? 0 : 1)} GB` : `${Math.round(mb)} MB`;
}

export const bytes = (count) => size(count == null ? null : count / MB);

/** seconds as "0.4 s", "12 s", "3:05 min", "2:07 h". */
export function span(seconds) {
  if (seconds == null) return NONE;
  const s = Math.max(0, seconds);
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.round(s)} s`;
  const whole = Math.round(s);
  const pair = (a, b) => `${a}:${String(b).padStart(2, "0")}`;
  if (whole < 3600) return `${pair(Math.floor(whole / 60), whole % 60)} min`;
  return `${pair(Math.floor(whole / 3600), Math.floor((whole % 3600) / 60))} h`;
}

export function ms(value) {
  if (value == null) return NONE;
  return value < 1000 ? `${Math.round(value)} ms` : span(value / 1000);
}

export function number(value) {
  if (value == null) return NONE;
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  return value >= 1e4 ? `${(value / 1e3).toFixed(0)}k` : String(value);
}

export function rate(value) {
  if (value == null) return NONE;
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

/** The time of day of seconds since 1970, in this browser's zone. */
export function clock(seconds, { millis = false } = {}) {
  if (seconds == null) return NONE;
  const at = new Date(seconds * 1000);
  const two = (n) => String(n).padStart(2, "0");
  const text = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return millis ? `${text}.${String(at.getMilliseconds()).padStart(3, "0")}` : text;
}

export const percent = (part, whole) => (whole > 0 ? Math.min(100, Math.max(0, (100 * part) / whole)) : 0);
