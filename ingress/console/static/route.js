// The view that an address asks for: `#/chat?model=NAME`.

export const VIEWS = ["models", "chat", "requests", "logs", "devices"];

export function read(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  return { view: VIEWS.includes(path) ? path : VIEWS[0], query: Object.fromEntries(new URLSearchParams(query)) };
}

export function write(view, query = {}) {
  const text = new URLSearchParams(query).toString();
  return `#/${view}${text ? `?${text}` : ""}`;
}
