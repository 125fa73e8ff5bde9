// npm's `ai` with `@ai-sdk/openai-compatible` against the server.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";

import { FRANCE, KEY, KEYED, MODEL, OPEN, SKY, UNIT, unfinished, until } from "./server.js";

const provider = createOpenAICompatible({
  name: "llm-manager",
  baseURL: `${OPEN}/v1`,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const keyed = createOpenAICompatible({ name: "llm-manager", baseURL: `${KEYED}/v1`, apiKey: KEY });
const plain = { temperature: 0, maxRetries: 0 };
const france = { ...plain, model: provider(MODEL), prompt: FRANCE, maxOutputTokens: 12 };

test("text is generated and counted", async () => {
  const { text, usage } = await generateText(france);
  assert.match(text, /Paris/);
  assert.ok(usage.outputTokens <= 12);
  assert.equal(usage.totalTokens, usage.inputTokens + usage.outputTokens);
});

test("stream brings the text, then its usage", async () => {
  const { textStream, usage } = streamText(france);
  let text = "";
  for await (const part of textStream) text += part;
  assert.match(text, /Paris/);
  assert.ok((await usage).outputTokens <= 12);
});

test("tool is called by its schema, and its result is read", async () => {
  const given = [];
  const { steps, text } = await generateText({
    ...plain,
    model: provider(MODEL),
    prompt: "What is the weather?",
    maxOutputTokens: 64,
    tools: {
      get_weather: tool({
        inputSchema: jsonSchema(UNIT),
        execute: (input) => {
          given.push(input.unit);
          return { degrees: 21 };
        },
      }),
    },
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
    stopWhen: stepCountIs(2),
  });
  assert.equal(steps.length, 2);
  assert.equal(given.length, 1);
  assert.ok(UNIT.properties.unit.enum.includes(given[0]));
  assert.ok(text);
});

test("structured output is an object", async () => {
  const { output } = await generateText({
    ...plain,
    model: provider(MODEL),
    prompt: "Describe the weather.",
    maxOutputTokens: 64,
    output: Output.object({ schema: jsonSchema(SKY) }),
  });
  assert.ok(SKY.properties.sky.enum.includes(output.sky));
  assert.equal(typeof output.warm, "boolean");
});

test("errors are the client's own class", async () => {
  await assert.rejects(generateText({ ...france, model: provider("nope") }), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 404);
    assert.equal(error.data.error.code, "model_not_found");
    return true;
  });
});

test("texts have vectors", async () => {
  const { embeddings } = await embedMany({ model: keyed.embeddingModel("vectors"), values: ["a cat", "tax", "a cat"] });
  assert.deepEqual(embeddings[0], embeddings[2]);
  assert.notDeepEqual(embeddings[0], embeddings[1]);
});

test("aborted stream stops the generation", async () => {
  const abort = new AbortController();
  const { textStream } = streamText({
    ...plain,
    model: keyed("slow"),
    prompt: "hello",
    maxOutputTokens: 10_000,
    abortSignal: abort.signal,
  });
  await textStream[Symbol.asyncIterator]().next();
  await until("it is generated", async () => (await unfinished("slow")) === 1);
  abort.abort();
  await until("it is not generated any more", async () => (await unfinished("slow")) === 0);
});

test("key opens the door, and another does not", async () => {
  const request = { ...plain, prompt: "hello", maxOutputTokens: 2 };
  assert.ok((await generateText({ ...request, model: keyed("slow") })).text);
  const stranger = createOpenAICompatible({ name: "llm-manager", baseURL: `${KEYED}/v1`, apiKey: "sk-wrong" });
  await assert.rejects(generateText({ ...request, model: stranger("slow") }), { statusCode: 401 });
});
