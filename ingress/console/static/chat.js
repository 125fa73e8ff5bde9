// A conversation with one model, or with two side by side. Pure.

export const EMPTY = {
  models: [""],
  system: "",
  settings: { temperature: "", top_p: "", max_tokens: "", seed: "", tools: "" },
  turns: [],
};

const FRESH = {
  state: "waiting", // waiting, streaming, done, stopped, failed
  text: "",
  reasoning: "",
  tools: [],
  error: null,
  firstAt: null,
  endedAt: null,
  usage: null,
  finish: null,
  pieces: 0,
};

export const fresh = (model, now) => ({ ...FRESH, model, beganAt: now });

/** The conversation with one more turn. images: data URLs. now: ms. */
export function asked(chat, text, images, now) {
  const answers = chat.models.map((model) => fresh(model, now));
  return { ...chat, turns: [...chat.turns, { text, images, answers }] };
}

/** The conversation with an answer of its last turn changed. */
export function answered(chat, column, change) {
  const last = chat.turns.at(-1);
  if (!last?.answers[column]) return chat;
  const answers = last.answers.map((answer, i) => (i === column ? change(answer) : answer));
  return { ...chat, turns: [...chat.turns.slice(0, -1), { ...last, answers }] };
}

/** An answer after one chunk of its stream. */
export function grown(answer, chunk, now) {
  const usage = chunk.usage ?? answer.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return { ...answer, usage };
  const delta = choice.delta ?? {};
  const text = delta.content ?? "";
  const reasoning = delta.reasoning_content ?? delta.reasoning ?? "";
  const tools = delta.tool_calls?.length ? withCalls(answer.tools, delta.tool_calls) : answer.tools;
  const brings = Boolean(text || reasoning || delta.tool_calls?.length);
  return {
    ...answer,
    state: "streaming",
    text: answer.text + text,
    reasoning: answer.reasoning + reasoning,
    tools,
    usage,
    finish: choice.finish_reason ?? answer.finish,
    firstAt: answer.firstAt ?? (brings ? now : null),
    pieces: answer.pieces + (brings ? 1 : 0),
  };
}

function withCalls(tools, calls) {
  const found = [...tools];
  for (const call of calls) {
    const at = call.index ?? found.length;
    const known = found[at] ?? { name: "", arguments: "" };
    found[at] = {
      name: known.name + (call.function?.name ?? ""),
      arguments: known.arguments + (call.function?.arguments ?? ""),
    };
  }
  return found;
}

export const ended = (answer, state, now, error = null) => ({ ...answer, state, error, endedAt: now });

/** Milliseconds to the first token, and tokens a second after it; null where they are not known. */
export function figures(answer) {
  const ttft = answer.firstAt == null ? null : answer.firstAt - answer.beganAt;
  const tokens = answer.usage?.completion_tokens ?? answer.pieces;
  const seconds = answer.firstAt == null || answer.endedAt == null ? 0 : (answer.endedAt - answer.firstAt) / 1000;
  const rate = seconds > 0 && tokens > 1 ? (tokens - 1) / seconds : null;
  return { ttft, tokens: tokens || null, rate };
}

export const busy = (chat) =>
  Boolean(chat.turns.at(-1)?.answers.some((one) => one.state === "waiting" || one.state === "streaming"));

/** The body of the request for the last turn's answer. Throws SyntaxError, if the tools are not JSON. */
export function body(chat, column) {
  const messages = chat.system.trim() ? [{ role: "system", content: chat.system }] : [];
  chat.turns.forEach((turn, i) => {
    messages.push({ role: "user", content: content(turn) });
    const answer = turn.answers[column];
    if (i < chat.turns.length - 1 && answer?.text) messages.push({ role: "assistant", content: answer.text });
  });
  const sent = { model: chat.models[column], messages, stream: true, stream_options: { include_usage: true } };
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (chat.settings[name] !== "") sent[name] = Number(chat.settings[name]);
  }
  if (chat.settings.tools.trim()) sent.tools = JSON.parse(chat.settings.tools);
  return sent;
}

function content(turn) {
  if (!turn.images.length) return turn.text;
  const images = turn.images.map((url) => ({ type: "image_url", image_url: { url } }));
  return [{ type: "text", text: turn.text }, ...images];
}

/** The conversation without its last turn. */
export const shortened = (chat) => ({ ...chat, turns: chat.turns.slice(0, -1) });

export const renewed = (chat) => ({ ...chat, turns: [] });

/** As it was kept: an answer that was being written then is not any more. */
export function restored(kept, now) {
  const turns = kept.turns.map((turn) => ({
    ...turn,
    answers: turn.answers.map((one) => (one.endedAt == null ? ended(one, "stopped", now) : one)),
  }));
  return { ...EMPTY, ...kept, turns };
}
