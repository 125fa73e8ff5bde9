// The server that the tests ask, and what they ask it: tests/e2e/test_clients.py says where it is.

export const OPEN = process.env.OPEN_URL; // needs no key; serves MODEL
export const KEYED = process.env.KEYED_URL; // needs KEY; serves slow and vectors
export const KEY = process.env.KEY;

export const MODEL = "smollm2-135m";
export const FRANCE = "What is the capital of France?";
export const UNIT = {
  type: "object",
  properties: { unit: { type: "string", enum: ["celsius", "fahrenheit"] } },
  required: ["unit"],
  additionalProperties: false,
};
export const SKY = {
  type: "object",
  properties: { sky: { type: "string", enum: ["blue", "grey"] }, warm: { type: "boolean" } },
  required: ["sky", "warm"],
  additionalProperties: false,
};

// What the server says of the model's requests that are not finished.
export async function unfinished(model) {
  const answer = await fetch(`${KEYED}/api/models/${model}`, { headers: { authorization: `Bearer ${KEY}` } });
  return (await answer.json()).model.running_requests;
}

export async function until(what, look, seconds = 20) {
  const end = Date.now() + 1000 * seconds;
  while (!(await look())) {
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
