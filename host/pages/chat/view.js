// One exchange on the page: the question, the answer as it grows, and the quiet line below it; and a
// conversation's line in the list.

import { COPY, el, glyph, mark, say, traceLink } from "../shared/dom.js";
import { render } from "./markdown.js";
import { MEANING, figures, when } from "./words.js";

const AGAIN = "M20 11a8 8 0 1 0-2.3 6.3M20 5v6h-6";

export class View {
  /** `on`: what the buttons do: `retry()`, `key()`. */
  constructor(exchange, on) {
    this.exchange = exchange;
    this.on = on;
    this.body = el("div", { class: "text" });
    this.state = el("p", { class: "state" });
    this.trouble = el("p", { class: "trouble" });
    this.strip = el("p", { class: "strip" });
    this.answer = el("article", { class: "answer", "aria-label": "Answer" },
      this.body, this.state, this.trouble, this.strip);
    this.node = el("div", { class: "exchange" },
      el("article", { class: "question", "aria-label": "You" },
        el("p", {}, exchange.question)),
      this.answer);
    this.update();
  }

  /** Draws at most once a frame, however fast the words come. */
  soon() {
    this.frame ??= requestAnimationFrame(() => this.update());
  }

  update() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    const { exchange } = this;
    mark(this.answer, { "aria-busy": exchange.isOpen ? "true" : null, "data-state": exchange.state });
    if (this.shown !== exchange.text) {
      this.shown = exchange.text;
      this.body.replaceChildren(render(exchange.text));
    }
    const state = this.words();
    say(this.state, state ?? "");
    this.state.hidden = !state;
    this.showTrouble();
    this.showStrip();
  }

  words() {
    const { state, position, reconnecting, text } = this.exchange;
    if (reconnecting) return "The connection was lost. Reconnecting…";
    if (state === "queued" && position > 0) {
      return position === 1 ? "You are next in the queue" : `Place ${position} in the queue`;
    }
    if ((state === "waiting" || state === "queued") && !text) return "Thinking…";
    return null;
  }

  showTrouble() {
    const { problem } = this.exchange;
    this.trouble.hidden = !problem;
    if (!problem || this.told === problem) return;
    this.told = problem;
    mark(this.trouble, { "data-quiet": problem.quiet ? "yes" : null });
    this.trouble.replaceChildren(
      el("span", {}, problem.text),
      problem.key ? el("button", { type: "button", onclick: this.on.key }, "Enter the key") : null,
      problem.again ? el("button", { type: "button", onclick: this.on.retry }, "Try again") : null,
    );
  }

  showStrip() {
    const { state, told, dropped, text } = this.exchange;
    this.strip.hidden = state !== "done";
    if (this.strip.hidden || this.strip.dataset.shown) return;
    this.strip.dataset.shown = "yes";
    const items = [];
    if (told) {
      const { first, speed, count, origin, generation } = figures(told);
      const reused = told.cached_tokens > 0
        ? `${told.cached_tokens} of the prompt's ${told.prompt_tokens} tokens needed no computing` : null;
      items.push(
        first && el("span", { title: reused }, first),
        speed && el("span", {}, speed),
        count && el("span", {}, count),
        origin && el("span", { class: "origin", title: MEANING[origin] }, origin),
        dropped > 0 && el("span", { title: "The oldest messages no longer fit beside this question." },
          `${dropped} older ${dropped === 1 ? "message" : "messages"} left out`),
        el("span", {}, generation),
        told.trace_id && el("span", {}, traceLink(told.trace_id)));
    }
    const copied = el("button", { type: "button", class: "bare icon", "aria-label": "Copy the answer",
      title: "Copy the answer", onclick: async () => {
        // Browsers let pages copy on https and on this machine only.
        const done = await navigator.clipboard?.writeText(text).then(() => "Copied", () => null);
        const told = done ?? "The browser does not let this page copy";
        mark(copied, { "aria-label": told, title: told });
      } }, glyph(COPY));
    this.strip.replaceChildren(
      el("span", { class: "figures" }, items),
      el("span", { class: "tools" }, copied,
        el("button", { type: "button", class: "bare icon retry", "aria-label": "Ask again for another answer",
          title: "Ask again for another answer", onclick: this.on.retry }, glyph(AGAIN))));
  }
}

export class Line {
  /** `open`: what choosing it does. */
  constructor(conversation, open) {
    this.conversation = conversation;
    this.name = el("span", { class: "name" });
    this.when = el("span", { class: "when" });
    this.button = el("button", { type: "button", class: "bare", onclick: open }, this.name, this.when);
    this.node = el("li", {}, this.button);
  }

  update(current) {
    const { title, running, at } = this.conversation;
    mark(this.button, { "aria-current": this.conversation === current ? "true" : null });
    say(this.name, title);
    say(this.when, running ? "writing" : when(at));
  }
}
