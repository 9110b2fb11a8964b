// What each slot of the engine does now.

import { el, mark, say } from "../shared/dom.js";

const tiles = [];

export function showSlots(list, { slots }) {
  while (tiles.length < slots.length) {
    const parts = {
      state: el("span", { class: "state" }),
      session: el("code"),
      tokens: el("strong"),
      speed: el("span", { class: "speed" }),
      prompt: el("span", { class: "below" }),
      bar: el("span", { class: "bar", "aria-hidden": "true" }, el("i")),
    };
    parts.node = el("li", {},
      el("span", { class: "head" }, el("span", { class: "name" }, `Slot ${tiles.length}`), parts.state),
      el("span", { class: "main" }, parts.tokens, parts.speed), parts.bar,
      el("span", { class: "foot" }, parts.prompt, parts.session));
    tiles.push(parts);
    list.append(parts.node);
  }
  slots.forEach((slot, at) => {
    const parts = tiles[at];
    const idle = slot.state === "idle";
    mark(parts.node, { "data-state": slot.state });
    say(parts.state, slot.state);
    say(parts.tokens, idle ? "–" : `${slot.output_tokens} tokens`);
    say(parts.speed, slot.state === "decode" && slot.tokens_per_second > 0
      ? `${slot.tokens_per_second.toFixed(1)}/s` : "");
    const cached = slot.cached_tokens > 0 ? `, ${slot.cached_tokens} reused` : "";
    say(parts.prompt, idle ? "free" : `prompt ${slot.prompt_tokens}${cached}`);
    // A digest: the id itself would open the conversation.
    say(parts.session, idle ? "" : slot.session ?? "no session");
  });
}
