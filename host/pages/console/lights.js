// The lights: what the person on call looks at first, by the watch-list.

import { el, mark, say } from "../shared/dom.js";

const GIB = 2 ** 30;
const WORDS = { good: "good", warn: "watch", bad: "critical", quiet: "" };

const level = (value, warn, bad) => (value > bad ? "bad" : value >= warn ? "warn" : "good");
const percent = (part, whole) => (whole > 0 ? `${Math.round((100 * part) / whole)} %` : "–");

/** What each light shows: `[text, state, line below]`. `before` is the sample some seconds ago. */
const LIGHTS = {
  Memory({ now }) {
    const bytes = now.sum("stent_memory_resident_bytes");
    const locked = now.sum("stent_memory_locked_bytes") ?? 0;
    return [`${(bytes / GIB).toFixed(bytes < 10 * GIB ? 2 : 1)} GiB`, level(bytes, 20 * GIB, 24 * GIB),
      `${(locked / GIB).toFixed(2)} GiB locked`];
  },
  CPU({ now, before }) {
    if (!before) return ["–", "quiet", "of its CPUs"];
    const cpus = now.sum("stent_cpus");
    const used = now.sum("stent_cpu_seconds_total") - before.sum("stent_cpu_seconds_total");
    const share = (100 * used) / ((now.at - before.at) / 1000) / cpus;
    return [`${Math.round(share)} %`, level(share, 80, 95), `of ${cpus} CPUs`];
  },
  "First words"({ status }) {
    const words = status.first_words;
    if (!words) return ["–", "quiet", "nobody asked in 5 minutes"];
    const answers = `${words.answers} ${words.answers === 1 ? "answer" : "answers"}`;
    return [duration(Math.round(words.p95 * 1e6)), level(words.p95, 1, 3), `95 of 100, ${answers} in 5 minutes`];
  },
  Restarts({ status }) {
    const { day, crashes } = status.restarts;
    return [`${day}`, level(day, 1, 2), `in 24 hours, ${crashes} after a crash`];
  },
  Queue({ slots }) {
    const busy = slots.slots.filter((slot) => slot.state !== "idle").length;
    return [`${slots.queued}`, slots.ready ? (slots.queued > 0 ? "warn" : "good") : "bad",
      slots.reason ?? `${busy} of ${slots.slots.length} slots busy`];
  },
  "From the cache"({ now }) {
    const by = (result) => now.sum("stent_cache_total", { result }) ?? 0;
    const shared = by("coalesced");
    const asked = by("hit") + by("miss");
    return [percent(by("hit"), asked), "quiet", `${by("hit")} of ${asked}, ${shared} shared`];
  },
  "Prompt reused"({ now }) {
    const reused = now.sum("stent_tokens_reused_total") ?? 0;
    const all = reused + (now.sum("stent_tokens_prefilled_total") ?? 0);
    return [percent(reused, all), "quiet", `of ${all.toLocaleString("en")} tokens`];
  },
  "KV cache"({ slots }) {
    return [percent(slots.kv_cells_used, slots.kv_cells), "quiet",
      `of ${slots.kv_cells.toLocaleString("en")} cells`];
  },
  Requests({ now }) {
    const failed = now.sum("stent_requests_total", { outcome: "error" }) ?? 0;
    const refused = now.sum("stent_requests_total", { outcome: "overloaded" }) ?? 0;
    return [`${now.sum("stent_requests_total") ?? 0}`, failed ? "warn" : "quiet",
      `${failed} failed, ${refused} refused`];
  },
};

/** From a request's arrival to its first token, in microseconds. */
export function firstWords(trace) {
  const all = [trace, ...trace.stages].flatMap((stage) => stage.events);
  return all.find((event) => event.name === "first_byte" || event.name === "first_token")?.at_us ?? null;
}

/** A duration that is given in microseconds. */
export function duration(us) {
  if (us === null || us === undefined) return "–";
  if (us < 1000) return `${us} µs`;
  if (us < 10_000) return `${(us / 1000).toFixed(1)} ms`;
  if (us < 1_000_000) return `${Math.round(us / 1000)} ms`;
  return `${(us / 1e6).toFixed(us < 1e7 ? 2 : 1)} s`;
}

const nodes = new Map();

export function showLights(list, sample) {
  for (const [name, light] of Object.entries(LIGHTS)) {
    if (!nodes.has(name)) {
      const parts = { value: el("strong"), word: el("span", { class: "word" }), below: el("span", { class: "below" }) };
      parts.node = el("li", {}, el("span", { class: "name" }, name, parts.word), parts.value, parts.below);
      nodes.set(name, parts);
      list.append(parts.node);
    }
    const [value, state, below] = light(sample);
    const parts = nodes.get(name);
    mark(parts.node, { "data-state": state });
    say(parts.value, value);
    say(parts.word, WORDS[state]);
    say(parts.below, below);
  }
}
