// How a model is asked, by its mode. Pure.

const WAYS = {
  chat: { path: "chat/completions", method: "chat.completions", body: { messages: [{ role: "user", content: "Hello!" }] } },
  completion: { path: "completions", method: "completions", body: { prompt: "Once upon a time" } },
  embedding: { path: "embeddings", method: "embeddings", body: { input: "Hello!" } },
  rerank: { path: "rerank", method: null, body: { query: "What is a cat?", documents: ["An animal.", "A car."] } },
  transcription: { path: "audio/transcriptions", method: null, body: null },
};

/** {curl, python, javascript}. base: of the API, such as http://localhost:8000/v1. */
export function snippets(model, mode, base, needsKey) {
  const way = WAYS[mode] ?? WAYS.chat;
  const ask = { model, ...way.body };
  return {
    curl: curl(base, way, ask, needsKey),
    python: way.method ? python(base, way, ask, needsKey) : pythonPlain(base, way, ask, needsKey),
    javascript: javascript(base, way, ask, needsKey),
  };
}

function curl(base, way, ask, needsKey) {
  const parts = [`curl ${base}/${way.path}`];
  if (needsKey) parts.push(`-H "Authorization: Bearer $LLM_MANAGER_KEY"`);
  if (way.body) parts.push(`-H 'Content-Type: application/json'`, `-d '${JSON.stringify(ask).replaceAll("'", "'\\''")}'`);
  else parts.push(`-F model='${ask.model}'`, "-F file=@speech.wav");
  return parts.join(" \\\n  ");
}

function python(base, way, ask, needsKey) {
  const given = Object.entries(ask).map(([name, value]) => `    ${name}=${JSON.stringify(value)},`);
  return [
    ...(needsKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${base}", api_key=${needsKey ? 'os.environ["LLM_MANAGER_KEY"]' : '"none"'})`,
    `answer = client.${way.method}.create(`,
    ...given,
    ")",
    "print(answer)",
  ].join("\n");
}

function pythonPlain(base, way, ask, needsKey) {
  const sent = way.body ? `json=${JSON.stringify(ask)}` : `data={"model": "${ask.model}"}, files={"file": open("speech.wav", "rb")}`;
  const headers = needsKey ? ', headers={"Authorization": f"Bearer {os.environ[\'LLM_MANAGER_KEY\']}"}' : "";
  const imports = needsKey ? ["import os", "", "import httpx"] : ["import httpx"];
  return [...imports, "", `print(httpx.post("${base}/${way.path}", ${sent}${headers}).json())`].join("\n");
}

function javascript(base, way, ask, needsKey) {
  const headers = [
    ...(way.body ? ['"Content-Type": "application/json"'] : []),
    ...(needsKey ? ["Authorization: `Bearer ${process.env.LLM_MANAGER_KEY}`"] : []),
  ];
  const form = [
    "const body = new FormData();",
    `body.append("model", ${JSON.stringify(ask.model)});`,
    'body.append("file", await (await import("node:fs")).openAsBlob("speech.wav"), "speech.wav");',
  ];
  return [
    ...(way.body ? [`const body = JSON.stringify(${JSON.stringify(ask)});`] : form),
    `const answer = await fetch("${base}/${way.path}", {`,
    `  method: "POST",${headers.length ? `\n  headers: { ${headers.join(", ")} },` : ""}`,
    "  body,",
    "});",
    "console.log(await answer.json());",
  ].join("\n");
}
