// The last lines of a log, those of them that are wanted, and the ones that are in sight. Pure.

export const KEPT = 50_000;
const LEVELS = ["debug", "info", "warning", "error", "critical"];

export class Lines {
  #lines = [];
  #wanted = [];
  #level = 0;
  #text = "";

  get total() {
    return this.#lines.length;
  }

  get count() {
    return this.#wanted.length;
  }

  /** Returns how many of the wanted lines had to go for the new ones. */
  add(lines, kept = KEPT) {
    for (const line of lines) {
      this.#lines.push(line);
      if (this.#fits(line)) this.#wanted.push(line);
    }
    const over = this.#lines.length - kept;
    if (over <= 0) return 0;
    const gone = new Set(this.#lines.splice(0, over));
    let first = 0;
    while (first < this.#wanted.length && gone.has(this.#wanted[first])) first++;
    this.#wanted.splice(0, first);
    return first;
  }

  clear() {
    this.#lines = [];
    this.#wanted = [];
  }

  want(level, text) {
    this.#level = Math.max(0, LEVELS.indexOf(level));
    this.#text = text.toLowerCase();
    this.#wanted = this.#lines.filter((line) => this.#fits(line));
  }

  slice(from, to) {
    return this.#wanted.slice(from, to);
  }

  #fits(line) {
    if (this.#level && LEVELS.indexOf(line.level) < this.#level) return false;
    return !this.#text || line.message.toLowerCase().includes(this.#text);
  }
}

/** Which of `count` lines are in sight, and some more on both sides. */
export function inSight(count, top, height, lineHeight, margin = 20) {
  const from = Math.max(0, Math.min(count, Math.floor(top / lineHeight) - margin));
  return { from, to: Math.min(count, Math.ceil((top + height) / lineHeight) + margin) };
}
