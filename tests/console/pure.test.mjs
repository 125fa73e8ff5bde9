// The parts of the page that only compute. Run by `node --test`.

import assert from "node:assert/strict";
import { test } from "node:test";

import { spans } from "../../ingress/console/static/ansi.js";
import * as chat from "../../ingress/console/static/chat.js";
import * as format from "../../ingress/console/static/format.js";
import { chosen, said, TABLES } from "../../ingress/console/static/i18n.js";
import { inSight, Lines } from "../../ingress/console/static/lines.js";
import { indented, parts } from "../../ingress/console/static/prose.js";
import { read, write } from "../../ingress/console/static/route.js";
import { snippets } from "../../ingress/console/static/snippets.js";
import { Events } from "../../ingress/console/static/sse.js";
import { store } from "../../ingress/console/static/store.js";
import * as table from "../../ingress/console/static/table.js";
import { lanes, summed, ticks } from "../../ingress/console/static/timeline.js";

// Server-sent events

const STREAM = ': ping\n\ndata: {"a":1}\n\nevent: x\r\ndata:two\r\ndata: lines\r\n\r\ndata: [DONE]\n\n';

test("events come out whole, wherever the stream is cut", () => {
  for (let cut = 0; cut <= STREAM.length; cut++) {
    const events = new Events();
    const found = [...events.take(STREAM.slice(0, cut)), ...events.take(STREAM.slice(cut))];
    assert.deepEqual(found, ['{"a":1}', "two\nlines", "[DONE]"], `cut at ${cut}`);
  }
});

test("an event that is not ended yet is kept back", () => {
  const events = new Events();
  assert.deepEqual(events.take("data: a\n"), []);
  assert.deepEqual(events.take("\n"), ["a"]);
});

// Colours

test("colours become classes, and end where they are reset", () => {
  assert.deepEqual(spans("a\x1b[1;31mred\x1b[39mbold\x1b[0m b"), [
    { text: "a", classes: "" },
    { text: "red", classes: "ansi-bold ansi-red" },
    { text: "bold", classes: "ansi-bold" },
    { text: " b", classes: "" },
  ]);
});

test("256 colours, RGB and marks that move the cursor leave plain text", () => {
  assert.deepEqual(spans("\x1b[38;5;31mx\x1b[2K\x1b[38;2;31;32;33my").map((one) => [one.text, one.classes]), [["x", ""], ["y", ""]]);
});

test("bright colours are as the others", () => {
  assert.equal(spans("\x1b[92mok")[0].classes, "ansi-green");
});

// Words of a model

test("fenced code is apart from the text around it", () => {
  assert.deepEqual(parts("Look:\n```python\nprint(1)\n```\nDone."), [
    { kind: "text", text: "Look:", language: "" },
    { kind: "code", text: "print(1)", language: "python" },
    { kind: "text", text: "Done.", language: "" },
  ]);
});

test("a fence that is still open is code already", () => {
  assert.deepEqual(parts("```js\nlet a"), [{ kind: "code", text: "let a", language: "js" }]);
});

test("an answer that is JSON is indented, and a half of one is text", () => {
  assert.equal(parts('{"a":[1]}')[0].text, '{\n  "a": [\n    1\n  ]\n}');
  assert.equal(parts('{"a":[1')[0].kind, "text");
  assert.equal(indented("12"), null);
});

// A conversation

const begun = () => chat.asked({ ...chat.EMPTY, models: ["m"] }, "Hi", [], 1000);
const piece = (delta, more = {}) => ({ choices: [{ delta, finish_reason: null }], ...more });

test("an answer grows by its chunks", () => {
  let one = begun().turns[0].answers[0];
  one = chat.grown(one, piece({ role: "assistant", content: "" }), 1100);
  assert.equal(one.firstAt, null);
  one = chat.grown(one, piece({ reasoning_content: "Hm." }), 1200);
  one = chat.grown(one, piece({ content: "Yes" }), 1300);
  one = chat.grown(one, { choices: [{ delta: {}, finish_reason: "length" }] }, 2200);
  one = chat.grown(one, { choices: [], usage: { completion_tokens: 11 } }, 2200);
  one = chat.ended(one, "done", 2200);
  assert.deepEqual([one.text, one.reasoning, one.finish], ["Yes", "Hm.", "length"]);
  assert.deepEqual(chat.figures(one), { ttft: 200, tokens: 11, rate: 10 });
});

test("the pieces of a tool's call are joined", () => {
  let one = begun().turns[0].answers[0];
  one = chat.grown(one, piece({ tool_calls: [{ index: 0, function: { name: "f", arguments: '{"a"' } }] }), 1);
  one = chat.grown(one, piece({ tool_calls: [{ index: 0, function: { arguments: ":1}" } }, { index: 1, function: { name: "g" } }] }), 2);
  assert.deepEqual(one.tools, [
    { name: "f", arguments: '{"a":1}' },
    { name: "g", arguments: "" },
  ]);
});

test("each of two models is sent its own answers", () => {
  let two = chat.asked({ ...chat.EMPTY, models: ["a", "b"], system: "Be brief." }, "1", [], 0);
  two = chat.answered(two, 1, (one) => chat.ended({ ...one, text: "from b" }, "done", 1));
  two = chat.asked(two, "2", ["data:x"], 2);
  assert.deepEqual(chat.body(two, 1).messages, [
    { role: "system", content: "Be brief." },
    { role: "user", content: "1" },
    { role: "assistant", content: "from b" },
    { role: "user", content: [{ type: "text", text: "2" }, { type: "image_url", image_url: { url: "data:x" } }] },
  ]);
  assert.equal(chat.body(two, 0).messages.length, 3);
});

test("only settings that are given are sent", () => {
  const one = { ...begun(), settings: { ...chat.EMPTY.settings, temperature: "0", tools: "[]" } };
  const { temperature, top_p, tools } = chat.body(one, 0);
  assert.deepEqual([temperature, top_p, tools], [0, undefined, []]);
  assert.throws(() => chat.body({ ...one, settings: { ...one.settings, tools: "[" } }, 0), SyntaxError);
});

test("an answer that was being written when the page was closed is not any more", () => {
  assert.equal(chat.busy(begun()), true);
  const again = chat.restored(JSON.parse(JSON.stringify(begun())), 5);
  assert.equal(chat.busy(again), false);
  assert.equal(again.turns[0].answers[0].state, "stopped");
});

// The table of models

const row = (name, status, more = {}) => ({ name, status, aliases: [], engine: "mlx", mode: "chat", toldAt: 0, ...more });

test("the table is replaced as a whole, then row by row", () => {
  let rows = table.told([], { type: "models", models: [row("a", "stopped"), row("b", "stopped")] }, 1);
  rows = table.told(rows, { type: "model", model: row("b", "running") }, 2);
  rows = table.told(rows, { type: "error", message: "x" }, 3);
  assert.deepEqual(rows.map((one) => [one.name, one.status, one.toldAt]), [["a", "stopped", 1], ["b", "running", 2]]);
});

test("changes are told of models that were known", () => {
  const before = [row("a", "stopped")];
  assert.deepEqual(table.changes(before, [row("a", "running"), row("b", "running")]), [{ name: "a", from: "stopped", to: "running" }]);
});

test("models that are up come first, and words find names, aliases and engines", () => {
  const rows = [row("a", "stopped"), row("b", "running"), row("c", "failed", { aliases: ["GPT-4"] })];
  assert.deepEqual(table.shown(rows, "", "").map((one) => one.name), ["b", "c", "a"]);
  assert.deepEqual(table.shown(rows, "gpt mlx", "").map((one) => one.name), ["c"]);
  assert.deepEqual(table.shown(rows, "", "failed").map((one) => one.name), ["c"]);
});

test("a load goes on between two messages, and never looks done", () => {
  const loading = row("a", "starting", { loading: { phase: "weights", seconds: 2, last_seconds: 4 }, toldAt: 1000 });
  assert.deepEqual(table.progress(loading, 2000), { phase: "weights", seconds: 3, last: 4, share: 0.75 });
  assert.equal(table.progress(loading, 60_000).share, 0.98);
  assert.equal(table.progress({ ...loading, loading: { ...loading.loading, last_seconds: null } }, 2000).share, null);
});

test("the time to the unloading counts down", () => {
  const idle = row("a", "running", { idle_seconds: 5, last_used_at: 100, unloads_at: 160 });
  assert.deepEqual(table.idle(idle, 5000), { seconds: 10, left: 50 });
  assert.equal(table.idle(idle, 90_000).left, 0);
  assert.equal(table.idle({ ...idle, idle_seconds: null }, 5000), null);
  assert.equal(table.idle({ ...idle, unloads_at: null }, 5000).left, null);
});

test("memory is held against the nodes where the model is", () => {
  const cpu = (total) => ({ cpu: { info: { memory_total: total } } });
  const nodes = [
    { address: "1", devices: cpu(100) },
    { address: "2", devices: { ...cpu(200), cuda: { info: { memory_total: 80 } } } },
  ];
  assert.equal(table.nodeMemory(row("a", "running", { nodes: ["2"] }), nodes), 200);
  assert.equal(table.nodeMemory(row("a", "running", { nodes: ["2"], engine: "vllm" }), nodes), 80);
  assert.equal(table.nodeMemory(row("a", "running"), nodes), 300);
  assert.equal(table.nodeMemory(row("a", "running"), []), null);
});

// Lines of a log

const lines = (from, to, level = "info") => Array.from({ length: to - from }, (_, i) => ({ level, message: `line ${from + i}` }));

test("the oldest lines go, and it is told how many of those that are wanted", () => {
  const log = new Lines();
  log.want("warning", "");
  assert.equal(log.add([...lines(0, 3), ...lines(3, 5, "error")], 5), 0);
  assert.equal(log.add(lines(5, 9, "critical"), 5), 1);
  assert.deepEqual([log.total, log.count], [5, 5]);
  assert.equal(log.slice(0, 1)[0].message, "line 4");
});

test("lines are found by level and text, those that come later too", () => {
  const log = new Lines();
  log.add([...lines(0, 10), ...lines(10, 12, "error")]);
  log.want("info", "LINE 1");
  assert.equal(log.count, 3);
  log.add(lines(100, 101));
  assert.equal(log.count, 4);
  log.clear();
  assert.deepEqual([log.total, log.count], [0, 0]);
});

test("50,000 lines and as many again take no time to speak of", () => {
  const log = new Lines();
  const began = performance.now();
  for (let i = 0; i < 100_000; i += 100) log.add(lines(i, i + 100));
  assert.equal(log.total, 50_000);
  assert.ok(performance.now() - began < 2000);
});

test("only lines in sight are drawn, with some around them", () => {
  assert.deepEqual(inSight(1000, 1800, 360, 18, 5), { from: 95, to: 125 });
  assert.deepEqual(inSight(3, 0, 360, 18, 5), { from: 0, to: 3 });
  assert.deepEqual(inSight(0, 0, 0, 18), { from: 0, to: 0 });
});

// The timeline

test("bars lie where their times are, cut to the stretch that is shown", () => {
  const found = lanes(
    [
      { model: "b", state: "running", from: 150, until: null, reason: "" },
      { model: "a", state: "running", from: 50, until: 120, reason: "idle" },
      { model: "a", state: "running", from: 10, until: 20, reason: "before" },
    ],
    100,
    200,
  );
  assert.deepEqual(found.map((lane) => [lane.model, lane.bars.map((bar) => [bar.left, bar.width])]), [
    ["a", [[0, 20]]],
    ["b", [[50, 50]]],
  ]);
});

test("ticks are round times and few", () => {
  assert.deepEqual(ticks(1000, 1900), [1200, 1500, 1800]);
  assert.ok(ticks(0, 86_400).length <= 7);
});

test("sums leave out what is not known", () => {
  assert.deepEqual(summed({ a: { waiting: [1, null] }, b: { waiting: [2, null] }, c: {} }, "waiting"), [3, null]);
});

// Words, addresses, figures

test("the address of a view is read as it was written", () => {
  assert.deepEqual(read(write("logs", { model: "org/a b?" })), { view: "logs", query: { model: "org/a b?" } });
  assert.equal(read("#/nowhere").view, "models");
  assert.equal(read("").view, "models");
});

test("figures are short, and missing ones are a dash", () => {
  assert.deepEqual([0.42, 12.4, 65, 3661].map(format.span), ["0.4 s", "12 s", "1:05 min", "1:01 h"]);
  assert.deepEqual([512, 2048, 20480].map(format.size), ["512 MB", "2.0 GB", "20 GB"]);
  assert.deepEqual([format.ms(12.4), format.ms(1500), format.number(12_345), format.rate(3.14159)], ["12 ms", "1.5 s", "12k", "3.1"]);
  for (const how of [format.span, format.size, format.ms, format.number, format.rate, format.bytes, format.clock]) assert.equal(how(null), "–");
});

test("the first of the wanted languages that there is", () => {
  assert.equal(chosen(["", "fr-FR", "zh-TW", "en"]), "zh");
  assert.equal(chosen(["fr"]), "en");
});

test("words have their values put in", () => {
  assert.equal(said(TABLES.en, "models.summary", { up: 0, all: 3 }), "0 of 3 running");
});

test("a store tells of other values only", () => {
  const one = store(1);
  const told = [];
  const forget = one.subscribe((value) => told.push(value));
  one.set(1);
  one.set((was) => was + 1);
  forget();
  one.set(3);
  assert.deepEqual(told, [2]);
});

test("snippets ask each mode's path, with a key only where one is needed", () => {
  const base = "http://x/v1";
  for (const [mode, path] of Object.entries({ chat: "chat/completions", embedding: "embeddings", rerank: "rerank", transcription: "audio/transcriptions" })) {
    const found = snippets("org/m", mode, base, false);
    assert.ok(found.curl.includes(`${base}/${path}`) && found.javascript.includes(`${base}/${path}`), mode);
    for (const text of Object.values(found)) assert.ok(text.includes("org/m") && !text.includes("KEY"), mode);
    for (const text of Object.values(snippets("m", mode, base, true))) assert.ok(text.includes("LLM_MANAGER_KEY"), mode);
  }
});
