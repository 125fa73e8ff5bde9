// The conversation of this tab: its answers as they come, kept in the tab.

import { Failure } from "./api.js";
import { answered, asked, body, EMPTY, ended, fresh, grown, restored } from "./chat.js";
import { store } from "./store.js";
import { read } from "./stream.js";

const KEPT = "llm-manager.chat";

export const talk = store(kept());

let stops = [];

function kept() {
  try {
    return restored(JSON.parse(sessionStorage.getItem(KEPT)) ?? EMPTY, Date.now());
  } catch {
    return EMPTY;
  }
}

export function change(how) {
  talk.set((was) => ({ ...was, ...how }));
  keep();
}

/** Tabs hold about 5 MB: where pictures do not fit, the words do. */
function keep() {
  const whole = talk.get();
  const bare = { ...whole, turns: whole.turns.map((turn) => ({ ...turn, images: [] })) };
  for (const one of [whole, bare]) {
    try {
      return sessionStorage.setItem(KEPT, JSON.stringify(one));
    } catch {
      continue;
    }
  }
  return undefined;
}

export function send(text, images) {
  talk.set((was) => asked(was, text, images, Date.now()));
  answerAll();
}

/** Asks the last turn again. */
export function again() {
  const models = talk.get().models;
  models.forEach((model, column) => talk.set((was) => withFresh(was, column, model)));
  answerAll();
}

function withFresh(chat, column, model) {
  const last = chat.turns.at(-1);
  const answers = [...last.answers];
  answers[column] = fresh(model, Date.now());
  return { ...chat, turns: [...chat.turns.slice(0, -1), { ...last, answers: answers.slice(0, chat.models.length) }] };
}

export function stopAll() {
  for (const stop of stops) stop.abort();
}

function answerAll() {
  keep();
  stops = talk.get().models.map((_, column) => {
    const stop = new AbortController();
    void answer(column, stop.signal).finally(keep);
    return stop;
  });
}

async function answer(column, signal) {
  const put = (how) => talk.set((was) => answered(was, column, how));
  const chunks = [];
  let frame = 0;
  const draw = () => {
    frame = 0;
    const taken = chunks.splice(0);
    put((one) => taken.reduce((grows, [chunk, at]) => grown(grows, chunk, at), one));
  };
  const event = (data) => {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Failure(chunk.error.message, 0, chunk.error.code ?? "stream");
    chunks.push([chunk, Date.now()]);
    frame ||= setTimeout(() => requestAnimationFrame(draw), 0);
  };
  let outcome = ["done", null];
  try {
    await read("v1/chat/completions", event, { method: "POST", body: body(talk.get(), column), signal });
  } catch (error) {
    outcome = signal.aborted ? ["stopped", null] : ["failed", plain(error)];
  }
  draw();
  put((one) => ended(one, outcome[0], Date.now(), outcome[1]));
}

/** As it can be kept. */
const plain = ({ message, status = 0, code = "page" }) => ({ message, status: code ? status || 1 : status, code });
