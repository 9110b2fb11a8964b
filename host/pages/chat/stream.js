// The wire: one question out, the parts of its answer in (the AI SDK's UI message stream, version 1).

/** The answer's stream ended before its last part. */
export class Broken extends Error {}

/** The server refused before the answer began. */
export class Refusal extends Error {
  constructor(status, wire, retryAfter) {
    super(wire?.message ?? `the server answered with status ${status}`);
    this.status = status;
    this.code = wire?.code ?? null;
    this.retryAfter = retryAfter;
  }
}

let key = null;

/** The key for servers that ask for one; kept until the tab is closed. */
export function useKey(value) {
  key = value;
  try {
    sessionStorage.setItem("stent.key", value);
  } catch {
    // Then until the page is left.
  }
}

try {
  key = sessionStorage.getItem("stent.key");
} catch {
  // Storage may be switched off.
}

/** fetch with the key; a refusal becomes an error. */
export async function call(path, { headers = {}, ...options } = {}) {
  const withKey = key ? { ...headers, authorization: `Bearer ${key}` } : headers;
  const response = await fetch(path, { ...options, headers: withKey, cache: "no-store" });
  if (response.ok) return response;
  const wire = await response.json().then((body) => body.error, () => null);
  throw new Refusal(response.status, wire, Number(response.headers.get("retry-after")) || null);
}

/** Asks, and yields `{ id, part }` until the answer's end. */
export async function* ask(body, signal) {
  const response = await call("chat/stream", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  yield* parts(response);
}

/** Goes on with an answer whose connection broke: what came after `last`, or all of it. */
export async function* resume(answer, session, last, signal) {
  const headers = last ? { "last-event-id": last } : {};
  const query = session ? `?session_id=${encodeURIComponent(session)}` : "";
  const response = await call(`chat/stream/${encodeURIComponent(answer)}${query}`, { headers, signal });
  if (response.status === 204) throw new Broken("there is nothing to go on with");
  yield* parts(response);
}

/** The `data:` frames of a body, each with the last `id:` before it. */
export async function* parts(response) {
  let buffer = "";
  let id = null;
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new Broken("the connection was lost");
      });
      if (done) throw new Broken("the answer ended without its last part");
      buffer += decoder.decode(value, { stream: true });
      const frames = buffer.split("\n\n");
      buffer = frames.pop();
      for (const frame of frames) {
        for (const line of frame.split("\n")) {
          if (line.startsWith("id:")) id = line.slice(3).trim();
          if (!line.startsWith("data:")) continue;
          const data = line.slice(5).trim();
          if (data === "[DONE]") return;
          yield { id, part: JSON.parse(data) };
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
