// What a model has written, cut into parts: [{kind: "text" | "code" | "json", text, language}]. Pure.

export function parts(text) {
  const json = indented(text);
  if (json !== null) return [{ kind: "json", text: json, language: "json" }];
  const found = [];
  let lines = [];
  let fence = null; // {mark, language}
  const close = (kind) => {
    const body = lines.join("\n");
    if (kind === "code" || body.trim()) found.push({ kind, text: body, language: fence?.language ?? "" });
    lines = [];
  };
  for (const line of text.split("\n")) {
    const mark = /^\s{0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/.exec(line);
    if (!fence && mark) {
      close("text");
      fence = { mark: mark[1], language: mark[2] };
    } else if (fence && mark && !mark[2] && mark[1].startsWith(fence.mark)) {
      close("code");
      fence = null;
    } else lines.push(line);
  }
  if (fence || lines.length) close(fence ? "code" : "text");
  return found;
}

/** JSON with each level indented; null if it is no object or list. */
export function indented(text) {
  const bare = text.trim();
  if (!/^[[{]/.test(bare)) return null;
  try {
    return JSON.stringify(JSON.parse(bare), null, 2);
  } catch {
    return null;
  }
}
