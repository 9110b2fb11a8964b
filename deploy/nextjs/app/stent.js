import { DefaultChatTransport } from "ai";
import { Stent } from "../stent-client.js";

/** Where the gateway is; its server.cors_origins must name this page's origin. */
export const STENT = process.env.NEXT_PUBLIC_STENT ?? "http://127.0.0.1:8000";

const stent = new Stent({ url: STENT });

const text = (message) => message.parts.filter((part) => part.type === "text").map((part) => part.text).join("");

/** Maps what useChat sends to what /chat/stream takes: the new message alone, since the gateway
 * remembers the rest. */
export function stentTransport() {
  return new DefaultChatTransport({
    api: `${STENT}/chat/stream`,
    prepareSendMessagesRequest({ id, messages, trigger }) {
      // regenerate() replaces the last answer in the gateway's memory, too, by another draw.
      return { body: { message: text(messages.findLast((it) => it.role === "user")), session_id: id, trigger } };
    },
    prepareReconnectToStreamRequest: ({ id }) => ({ api: `${STENT}/chat/stream/${encodeURIComponent(id)}` }),
  });
}

/** The conversation's id, which nobody can guess; kept in this browser. */
export function sessionId() {
  const kept = localStorage.getItem("session");
  if (kept) return kept;
  const bits = crypto.getRandomValues(new Uint8Array(16));
  const id = Array.from(bits, (byte) => byte.toString(16).padStart(2, "0")).join("");
  localStorage.setItem("session", id);
  return id;
}

/** What was said before, as useChat keeps messages. */
export async function history(id) {
  const messages = await stent.history(id).catch(() => []);
  return messages.map(({ role, text }, at) => ({ id: `h${at}`, role, parts: [{ type: "text", text }] }));
}

/** The gateway's refusal in its own words. */
export function words(error) {
  try {
    return JSON.parse(error.message).error.message;
  } catch {
    return error.message;
  }
}
