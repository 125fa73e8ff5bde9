// npm's `openai` against the server.

import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

import { FRANCE, KEY, KEYED, MODEL, OPEN, SKY, UNIT, unfinished, until } from "./server.js";

const options = { maxRetries: 0, timeout: 120_000 };
const client = new OpenAI({ baseURL: `${OPEN}/v1`, apiKey: "none", ...options });
const keyed = new OpenAI({ baseURL: `${KEYED}/v1`, apiKey: KEY, ...options });
const france = { model: MODEL, messages: [{ role: "user", content: FRANCE }], max_tokens: 12, temperature: 0 };

test("chat answers and counts", async () => {
  const answer = await client.chat.completions.create(france);
  assert.match(answer.choices[0].message.content, /Paris/);
  assert.equal(answer.model, MODEL);
  assert.ok(answer.usage.completion_tokens <= 12);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test("stream brings the text, then its usage", async () => {
  const stream = await client.chat.completions.create({
    ...france,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.match(text, /Paris/);
  assert.ok(usage.completion_tokens <= 12);
});

test("tool is called by its schema, and its result is read", async () => {
  const tools = [{ type: "function", function: { name: "get_weather", parameters: UNIT } }];
  const messages = [{ role: "user", content: "What is the weather?" }];
  const request = { model: MODEL, tools, temperature: 0 };
  const asked = await client.chat.completions.create({
    ...request,
    messages,
    tool_choice: "required",
    max_tokens: 64,
  });
  assert.equal(asked.choices[0].finish_reason, "tool_calls");
  const [call] = asked.choices[0].message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  assert.ok(UNIT.properties.unit.enum.includes(JSON.parse(call.function.arguments).unit));

  const answer = (messages, max_tokens) =>
    client.chat.completions.create({ ...request, messages, max_tokens, tool_choice: "none" });
  const result = { role: "tool", tool_call_id: call.id, content: '{"degrees": 21}' };
  const told = await answer([...messages, asked.choices[0].message, result], 8);
  assert.ok(told.choices[0].message.content);
  assert.ok(told.usage.prompt_tokens > (await answer(messages, 1)).usage.prompt_tokens);
});

test("structured output is parsed", async () => {
  const answer = await client.chat.completions.parse({
    model: MODEL,
    messages: [{ role: "user", content: "Describe the weather." }],
    max_tokens: 64,
    temperature: 0,
    response_format: { type: "json_schema", json_schema: { name: "weather", schema: SKY, strict: true } },
  });
  const { sky, warm } = answer.choices[0].message.parsed;
  assert.ok(SKY.properties.sky.enum.includes(sky));
  assert.equal(typeof warm, "boolean");
});

test("errors are the client's own classes", async () => {
  await assert.rejects(client.chat.completions.create({ ...france, model: "nope" }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  await assert.rejects(client.chat.completions.create({ ...france, temperature: 9 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    return true;
  });
});

test("models are listed and found", async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(ids.includes(MODEL));
  assert.equal((await client.models.retrieve("org/echo")).id, "org/echo");
});

test("vectors are the same as floats and as base64, its own choice", async () => {
  const request = { model: "vectors", input: ["a cat", "tax"] };
  const packed = await keyed.embeddings.create(request);
  const plain = await keyed.embeddings.create({ ...request, encoding_format: "float" });
  assert.equal(packed.data.length, 2);
  plain.data.forEach(({ embedding }, i) => {
    assert.deepEqual(Float32Array.from(packed.data[i].embedding), Float32Array.from(embedding));
  });
  assert.notDeepEqual(plain.data[0].embedding, plain.data[1].embedding);
});

test("aborted stream stops the generation", async () => {
  const stream = await keyed.chat.completions.create({
    model: "slow",
    messages: [{ role: "user", content: "hello" }],
    max_tokens: 10_000,
    stream: true,
  });
  await stream[Symbol.asyncIterator]().next();
  await until("it is generated", async () => (await unfinished("slow")) === 1);
  stream.controller.abort();
  await until("it is not generated any more", async () => (await unfinished("slow")) === 0);
});

test("key opens the door, and another does not", async () => {
  const request = { model: "slow", messages: [{ role: "user", content: "hello" }], max_tokens: 2 };
  assert.ok((await keyed.chat.completions.create(request)).choices[0].message.content);
  const stranger = keyed.withOptions({ apiKey: "sk-wrong" });
  await assert.rejects(stranger.chat.completions.create(request), OpenAI.AuthenticationError);
});
