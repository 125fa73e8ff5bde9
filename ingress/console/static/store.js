// A value, and who wants to know when it is another one.

export function store(value) {
  const listeners = new Set();
  return {
    get: () => value,
    /** next: a value, or a function that makes it from the last one. */
    set(next) {
      const made = typeof next === "function" ? next(value) : next;
      if (Object.is(made, value)) return;
      value = made;
      for (const listener of [...listeners]) listener(value);
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}
