// The server, asked by HTTP. Addresses are relative to the page, so that it works under any prefix.

import { key, wanted } from "./key.js";

/** What the server said instead of an answer. status is 0 if it could not be reached. */
export class Failure extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The response, once its head is there. Throws Failure. */
export async function open(path, { method = "GET", body, signal } = {}) {
  for (;;) {
    const used = key();
    const response = await reach(path, method, body, signal, used);
    if (response.ok) return response;
    const failure = await told(response);
    if (failure.status !== 401 || !(await wanted(failure.message, used))) throw failure;
  }
}

/** The JSON of the answer. Throws Failure. */
export async function ask(path, options) {
  return (await open(path, options)).json();
}

async function reach(path, method, body, signal, used) {
  const headers = {};
  if (used) headers.Authorization = `Bearer ${used}`;
  if (body) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, { method, headers, signal, body: body && JSON.stringify(body), cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(error.message);
  }
}

async function told(response) {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text);
    return new Failure(error.message, response.status, error.code);
  } catch {
    return new Failure(text.slice(0, 500) || response.statusText, response.status);
  }
}

/** A model's name as part of a path: it may hold slashes. */
export const named = (name) => name.split("/").map(encodeURIComponent).join("/");
