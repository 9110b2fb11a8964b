import { Stent } from "../stent-client.js";

/** Where the gateway is; its server.cors_origins must name this page's origin. */
export const STENT = process.env.NEXT_PUBLIC_STENT ?? "http://127.0.0.1:8000";

const stent = new Stent({ url: STENT });

const text = (message) => message.parts.filter((part) => part.type === "text").map((part) => part.text).join("");
const note = (data) => ({ type: "data-stent", transient: true, data });

/** What useChat asks and is told, through the client, which takes lost connections up again. */
export const transport = {
  async sendMessages({ chatId, messages, trigger, abortSignal }) {
    // The new message alone: the gateway remembers the rest. regenerate() replaces the last answer in
    // the gateway's memory, too, by another draw.
    const question = text(messages.findLast((it) => it.role === "user"));
    const answer = stent.ask(question, { sessionId: chatId, trigger, signal: abortSignal });
    const begun = trigger === "submit-message" && { question, before: messages.length - 1 };
    return stream(answer, (id) => begun && keep("open", { ...begun, id }));
  },
  /** The answer that was being written when the page was left. */
  async reconnectToStream({ abortSignal }) {
    const open = kept("open");
    return open && stream(stent.resume(open.id, { signal: abortSignal }), () => {});
  },
};

/** An answer as useChat reads it. */
function stream(answer, started) {
  const chunks = chunksOf(answer, started);
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await chunks.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    cancel: () => answer.stop(),
  });
}

async function* chunksOf(answer, started) {
  let writing = false;
  let noted = false;
  try {
    for await (const part of answer) {
      if (part.type === "start") {
        started(part.id);
        yield { type: "start", messageId: part.id };
      } else if (part.type === "text") {
        if (noted) yield note({ type: "writing" });
        if (!writing) yield { type: "text-start", id: "0" };
        [noted, writing] = [false, true];
        yield { type: "text-delta", id: "0", delta: part.text };
      } else {
        noted = true;
        yield note(part);
      }
    }
    if (writing) yield { type: "text-end", id: "0" };
    if (answer.summary) yield { type: "data-stent", id: "summary", data: answer.summary };
    if (answer.finishReason === "abort") yield { type: "abort" };
    else if (answer.finishReason) yield { type: "finish", finishReason: answer.finishReason };
  } finally {
    keep("open", null);
  }
}

/** The conversation as the gateway remembers it, and whether an answer is still being written.
 * Its id lies in this browser, and nobody can guess it. */
export async function remembered() {
  const id = kept("session") ?? keep("session", unguessable());
  const said = await stent.history(id).catch(() => []);
  const messages = said.map(({ role, text }, at) => message(`h${at}`, role, text));
  const open = kept("open");
  const resume = open !== null && messages.length <= open.before;
  if (resume) messages.push(message("open", "user", open.question));
  return { id, messages, resume };
}

const message = (id, role, text) => ({ id, role, parts: [{ type: "text", text }] });
const kept = (name) => JSON.parse(localStorage.getItem(`stent.${name}`));

function keep(name, value) {
  if (value === null) localStorage.removeItem(`stent.${name}`);
  else localStorage.setItem(`stent.${name}`, JSON.stringify(value));
  return value;
}

/** In pages without TLS too, where there is no crypto.randomUUID. */
function unguessable() {
  const bits = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bits, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What went wrong, in words that somebody who only asked a question can use. */
export function words({ code, message, retryAfter }) {
  const when = retryAfter ? `Try again in ${retryAfter} s.` : "Try again in a moment.";
  if (code === "overloaded") return `All places are taken at the moment. ${when}`;
  if (code === "connection") return "The server cannot be reached. Are you online?";
  return `The answer could not be completed: ${message}.`;
}
