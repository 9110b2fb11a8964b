// What went wrong, in words that somebody who only asked a question can use.

import { StentError } from "../shared/stent-client.js";

/** An answer that broke off. */
export const LOST = { text: "The connection was lost before the answer was complete.", again: true };

/** An answer that somebody did not want to the end. */
export const STOPPED = { text: "You stopped this answer; the server does not remember it.", again: true, quiet: true };

/** One sentence, and whether asking again may help. `begun`: the answer had begun. */
export function explain(error, begun = false) {
  if (!(error instanceof StentError)) {
    return { text: `The answer could not be completed: ${error.message}.`, again: true };
  }
  if (error.code === "connection") {
    return begun ? LOST : { text: "The server cannot be reached. Are you online?", again: true };
  }
  // An error that ended an answer has no status.
  return error.status ? refused(error) : { ...refused(error), again: true };
}

function refused({ status, code, message, retryAfter }) {
  const wait = retryAfter ? ` Try again in ${retryAfter} s.` : " Try again in a moment.";
  switch (true) {
    case status === 401:
      return { text: "This server asks for a key.", key: true };
    case code === "overloaded":
      return { text: `All places are taken at the moment.${wait}`, again: true };
    case status === 429:
      return { text: `That was too much at once.${wait}`, again: true };
    case code === "refused":
      return { text: message };
    case code === "context_length_exceeded":
      return { text: `This is too long: ${message}.` };
    case status === 503:
      return { text: `The server takes no questions at the moment (${message}).${wait}`, again: true };
    case status === 413:
      return { text: "This message is too long for the server." };
    default:
      return { text: `The server refused: ${message}.`, again: status >= 500 };
  }
}

/** What the quiet line below an answer says; each a text, or null. */
export function figures(told) {
  const ms = told.ttft_ms;
  const first = ms === null || ms === undefined ? null
    : ms >= 1000 ? `first word after ${(ms / 1000).toFixed(1)} s`
    : `first word after ${Math.round(ms)} ms`;
  const rate = told.tokens_per_second;
  const speed = rate > 0 ? `${rate.toFixed(rate < 100 ? 1 : 0)} tokens/s` : null;
  const count = told.tokens > 0 ? `${told.tokens} ${told.tokens === 1 ? "token" : "tokens"}` : null;
  const origin = told.cached ? "cached" : told.coalesced ? "shared" : null;
  return { first, speed, count, origin, generation: `policy generation ${told.generation}` };
}

/** What the words of that line mean. */
export const MEANING = {
  cached: "This question was answered before: nothing was generated for it.",
  shared: "Somebody asked the same at the same time: it was generated once for both.",
};

/** When something was, as short as it can be said. */
export function when(at) {
  const minutes = Math.round((Date.now() - at) / 60000);
  if (minutes < 1) return "now";
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 60 * 24) return `${Math.round(minutes / 60)} h`;
  return new Date(at).toLocaleDateString(undefined, { day: "numeric", month: "short" });
}
