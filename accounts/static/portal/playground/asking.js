// Asks the public API, with a token that this session is told for an hour at most. It is kept here and nowhere else.

import { eventsOf } from "./sse.js";

const RENEW_BEFORE_SECONDS = 120;
const UNKNOWN = new Set(["invalid_api_key", "token_expired"]);

export class Problem extends Error {
  constructor(code, message = "", retryAfter = null) {
    super(message);
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

export class Asking {
  #page;
  #token = "";
  #endsAt = 0;

  constructor(page) {
    this.#page = page;
  }

  // Yields what comes: {id}, {text}, {reasoning}, {usage}, {finish}. Whatever goes wrong is thrown as a Problem.
  async *ask(model, messages, signal) {
    const response = await this.#send(model, messages, signal);
    yield { id: response.headers.get("x-request-id") };
    let isOver = false;
    try {
      for await (const data of eventsOf(response)) {
        if (data === "[DONE]") isOver = true;
        else yield* said(JSON.parse(data));
      }
    } catch (problem) {
      throw problem instanceof TypeError ? new Problem("broke") : problem;
    }
    if (!isOver) throw new Problem("broke");
  }

  async #send(model, messages, signal) {
    const body = JSON.stringify({ model, messages, stream: true, stream_options: { include_usage: true } });
    for (let turn = 0; ; turn += 1) {
      const headers = { Authorization: `Bearer ${await this.#current(signal)}`, "Content-Type": "application/json" };
      const response = await reach("/v1/chat/completions", { method: "POST", headers, body, signal });
      if (response.ok) return response;
      const problem = await refusal(response);
      // Another page of this session may have made it end: a new one is told at once.
      if (turn > 0 || !UNKNOWN.has(problem.code)) throw problem;
      this.#token = "";
    }
  }

  async #current(signal) {
    if (this.#token && Date.now() < this.#endsAt - RENEW_BEFORE_SECONDS * 1000) return this.#token;
    const response = await reach(this.#page.tokenUrl, {
      method: "POST",
      headers: { "X-CSRFToken": cookie("csrftoken") },
      redirect: "manual",
      signal,
    });
    if (!response.ok) {
      const isRefused = response.headers.get("content-type")?.startsWith("application/json");
      throw isRefused ? new Problem("refused", (await response.json()).error) : new Problem("signed_out");
    }
    const told = await response.json();
    this.#token = told.token;
    this.#endsAt = Date.now() + told.seconds * 1000;
    return this.#token;
  }

  // What the ledger says of an answer, as soon as it knows; null: not soon enough.
  async cost(id) {
    for (let pause = 150; pause < 5000; pause *= 1.6) {
      await new Promise((resolve) => setTimeout(resolve, pause));
      const response = await reach(this.#page.answerUrl.replace("ID", encodeURIComponent(id)), { redirect: "manual" });
      if (!response.ok) return null;
      const told = await response.json();
      if ("points" in told) return told;
    }
    return null;
  }
}

function* said(chunk) {
  if (chunk.error) throw new Problem(chunk.error.code ?? "other", chunk.error.message);
  const [choice] = chunk.choices;
  if (choice?.delta.reasoning_content) yield { reasoning: choice.delta.reasoning_content };
  if (choice?.delta.content) yield { text: choice.delta.content };
  if (choice?.finish_reason) yield { finish: choice.finish_reason };
  if (chunk.usage) yield { usage: chunk.usage };
}

// Not the page's own field: whoever signs in again in another tab has another one since then.
function cookie(name) {
  const found = document.cookie.split("; ").find((each) => each.startsWith(`${name}=`));
  return found?.slice(name.length + 1) ?? "";
}

async function reach(url, options) {
  try {
    return await fetch(url, { cache: "no-store", ...options });
  } catch (problem) {
    throw problem instanceof TypeError ? new Problem("offline") : problem;
  }
}

async function refusal(response) {
  const seconds = Number(response.headers.get("retry-after"));
  const body = await response.json().catch(() => ({}));
  const { code = null, message = "" } = body.error ?? {};
  return new Problem(code ?? "other", message, seconds > 0 ? seconds : null);
}
