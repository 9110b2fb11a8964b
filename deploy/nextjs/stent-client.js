// @ts-check
/**
 * A client of Stent's chat routes for browsers and Node 20 or newer, without dependencies.
 *
 *     const stent = new Stent({ url: "http://127.0.0.1:8000" });
 *     const answer = stent.ask("What is diabetes?", { sessionId: "test123" });
 *     for await (const part of answer) if (part.type === "text") show(part.text);
 *     answer.stop();                    // or let it end; answer.summary tells what it took
 *
 * A lost connection is taken up where it was left, and no question is answered twice.
 */

/**
 * @typedef {object} Options
 * @property {string} [url] where the gateway is; without it, where the page came from
 * @property {string} [key] an API key. Not in a page: whoever reads the page reads it
 * @property {boolean} [resume] take lost connections up again (true); the gateway then writes an
 *   answer on for a while when its reader is gone, so stop() is how to end one
 * @property {number} [attempts] connections for one answer before it fails (5)
 * @property {typeof fetch} [fetch] another fetch, for tests
 */

/**
 * @typedef {object} Params what a question may say beside its message
 * @property {string} [sessionId] the conversation; without it a new one, see Answer.sessionId
 * @property {"submit-message" | "regenerate-message"} [trigger] "regenerate-message": the answer takes
 *   the place of the conversation's last one, once it is complete, if that was to the same message;
 *   it is drawn anew unless a seed is given
 * @property {number} [maxTokens]
 * @property {number} [temperature]
 * @property {number} [topP]
 * @property {number} [topK]
 * @property {number | "random" | "derived"} [seed] "random": another answer each time
 * @property {string | string[]} [stop]
 * @property {AbortSignal} [signal] stops the answer
 */

/**
 * @typedef {object} Summary
 * @property {string | null} trace_id
 * @property {boolean} cached
 * @property {boolean} coalesced
 * @property {number} generation
 * @property {number | null} ttft_ms
 * @property {number} prompt_tokens
 * @property {number} cached_tokens
 * @property {number} tokens
 * @property {number} tokens_per_second
 */

/**
 * What an answer yields: "start" once, when the gateway has let it in; "queued" while it waits; text;
 * "reconnecting" where the connection was lost and is being made again.
 *
 * @typedef {{ type: "start", id: string, sessionId: string | undefined }
 *   | { type: "text", text: string }
 *   | { type: "queued", position: number }
 *   | { type: "trimmed", dropped: number }
 *   | { type: "reconnecting", attempt: number }} Part
 */

/** What the gateway refused, or what ended an answer. */
export class StentError extends Error {
  /** @param {string} message @param {{ status?: number, code?: string, param?: string, retryAfter?: number }} [facts] */
  constructor(message, facts = {}) {
    super(message);
    this.name = "StentError";
    /** HTTP status, where the request was refused before it was answered. */
    this.status = facts.status;
    /** A stable word, such as "overloaded" or "rate_limited"; "connection" for a lost one. */
    this.code = facts.code ?? "unknown";
    /** The field that it is about. */
    this.param = facts.param;
    /** Seconds after which trying again makes sense. */
    this.retryAfter = facts.retryAfter;
  }
}

export class Stent {
  /** @param {Options} [options] */
  constructor({ url = "", key, resume = true, attempts = 5, fetch: via } = {}) {
    this.url = url.replace(/\/$/, "");
    this.headers = key ? { authorization: `Bearer ${key}` } : {};
    this.resumes = resume;
    this.attempts = attempts;
    /** @type {typeof fetch} */
    this.fetch = via ?? ((...asked) => fetch(...asked));
  }

  /** Asks a question; the answer begins when it is read. @param {string} message @param {Params} [params] */
  ask(message, params = {}) {
    return new Answer(this, { message, params });
  }

  /** The newest answer of a session, or one by its id, from its start: after a page was loaded
   * again. It has no parts where there is nothing to resume. @param {string} id @param {{ signal?: AbortSignal }} [params] */
  resume(id, params = {}) {
    return new Answer(this, { id, params });
  }

  /** What was said in a session. @param {string} sessionId
   * @returns {Promise<{ role: string, text: string, exchange: number }[]>} */
  async history(sessionId) {
    const response = await this.request("GET", `/sessions/${encodeURIComponent(sessionId)}`);
    return response.status === 404 ? [] : (await response.json()).messages;
  }

  /** Forgets a session. @param {string} sessionId */
  async forget(sessionId) {
    await this.request("DELETE", `/sessions/${encodeURIComponent(sessionId)}`);
  }

  /** @param {string} method @param {string} route @param {RequestInit} [more] */
  async request(method, route, more = {}) {
    const headers = { ...this.headers, ...more.headers };
    const response = await this.fetch(this.url + route, { ...more, method, headers });
    if (!response.ok && response.status !== 404) throw await refusal(response);
    return response;
  }
}

/** One answer: read it with `for await`, or whole with `text()`. */
export class Answer {
  /** @param {Stent} stent @param {{ message?: string, id?: string, params: Params }} asked */
  constructor(stent, { message, id, params }) {
    this.stent = stent;
    this.message = message;
    this.params = params;
    /** Names the answer, for Stent.resume(). @type {string | undefined} */
    this.id = id;
    /** @type {string | undefined} */
    this.sessionId = params.sessionId;
    /** stop, length, content-filter, other or error; "abort" for one that was stopped.
     * @type {string | undefined} */
    this.finishReason = undefined;
    /** @type {Summary | undefined} */
    this.summary = undefined;
    /** The text so far. */
    this.said = "";
    this.leaves = new AbortController();
    this.lastEventId = "";
    this.key = newKey();
    if (params.signal?.aborted) this.stop();
    params.signal?.addEventListener("abort", () => this.stop(), { once: true });
  }

  /** The whole text. */
  async text() {
    for await (const _ of this);
    return this.said;
  }

  /** Ends the work; whoever reads sees the end of the answer. */
  stop() {
    if (this.finishReason) return;
    this.finishReason = "abort";
    this.leaves.abort();
    // The gateway would write a kept answer on for whoever comes back.
    if (this.stent.resumes && this.id) {
      this.stent.request("DELETE", `/chat/stream/${encodeURIComponent(this.id)}`).catch(() => {});
    }
  }

  /** @returns {AsyncGenerator<Part>} */
  async *[Symbol.asyncIterator]() {
    for (let attempt = 1; !this.finishReason; attempt++) {
      try {
        const response = await this.#connect();
        if (response.status === 204) {
          if (this.message !== undefined && this.lastEventId) {
            throw new StentError("the rest of the answer is gone", { code: "connection" });
          }
          return;
        }
        for await (const frame of frames(response)) {
          attempt = 1;
          if (frame.id) this.lastEventId = frame.id;
          const part = frame.data === "[DONE]" ? undefined : this.#take(JSON.parse(frame.data));
          if (part) yield part;
          if (frame.data === "[DONE]") return;
        }
        throw new TypeError("the connection ended before the answer did");
      } catch (error) {
        if (this.finishReason === "abort") return;
        const lost = !(error instanceof StentError);
        if (!lost) throw error;
        if (!this.stent.resumes || attempt >= this.stent.attempts) {
          throw new StentError(`no connection: ${error}`, { code: "connection" });
        }
        yield { type: "reconnecting", attempt };
        await new Promise((done) => setTimeout(done, 200 * 2 ** (attempt - 1)));
      }
    }
  }

  /** Asks, or asks for the rest of what was begun. */
  async #connect() {
    const signal = this.leaves.signal;
    if (this.message === undefined || this.lastEventId) {
      const headers = this.lastEventId ? { "last-event-id": this.lastEventId } : {};
      const route = `/chat/stream/${encodeURIComponent(this.id ?? "")}`;
      return this.stent.request("GET", route, { headers, signal });
    }
    const { sessionId, maxTokens, topP, topK, signal: _, ...same } = this.params;
    const body = JSON.stringify({
      message: this.message,
      session_id: sessionId,
      max_tokens: maxTokens,
      top_p: topP,
      top_k: topK,
      resume: this.stent.resumes || undefined,
      ...same,
    });
    /** @type {Record<string, string>} */
    const headers = { "content-type": "application/json" };
    if (this.stent.resumes) headers["idempotency-key"] = this.key;
    const response = await this.stent.request("POST", "/chat/stream", { headers, body, signal });
    if (response.status === 404) throw await refusal(response);
    return response;
  }

  /** @param {any} part @returns {Part | undefined} */
  #take(part) {
    switch (part.type) {
      case "start":
        this.id = part.messageId;
        this.sessionId = part.messageMetadata?.session_id ?? this.sessionId;
        return { type: "start", id: part.messageId, sessionId: this.sessionId };
      case "text-delta":
        this.said += part.delta;
        return { type: "text", text: part.delta };
      case "data-stent":
        if (part.data.queued) return { type: "queued", position: part.data.queued.position };
        if (part.data.trimmed) return { type: "trimmed", dropped: part.data.trimmed.dropped };
        if (part.id === "summary") this.summary = part.data;
        return;
      case "finish":
        this.finishReason = part.finishReason;
        return;
      case "abort":
        this.finishReason = "abort";
        return;
      case "error":
        this.finishReason = "error";
        throw new StentError(part.errorText, { code: part.code });
    }
  }
}

/** The events of a stream (HTML standard, 9.2.6). @param {Response} response */
async function* frames(response) {
  if (!response.body) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (buffer += decoder.decode(value, { stream: true })).split("\n\n");
      buffer = events.pop() ?? "";
      for (const event of events) {
        const field = (/** @type {string} */ name) =>
          event.split("\n").filter((line) => line.startsWith(name)).map((line) => line.slice(name.length)).join("\n");
        const data = field("data: ");
        if (data) yield { id: field("id: "), data };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {Response} response */
async function refusal(response) {
  const error = (await response.json().catch(() => ({}))).error ?? {};
  return new StentError(error.message ?? `the gateway answered ${response.status}`, {
    status: response.status,
    code: error.code,
    param: error.param,
    retryAfter: Number(response.headers.get("retry-after")) || undefined,
  });
}

/** Unguessable, in pages without TLS too, where there is no crypto.randomUUID. */
function newKey() {
  const bits = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bits, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
