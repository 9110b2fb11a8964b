// Requests and policy changes as waterfalls: each stage as a bar on the request's own time.

import { arrange, el, traceLink } from "../shared/dom.js";
import { duration, firstWords } from "./lights.js";

const SHOWN = 40;
const CHANGES = 5;
const KINDS = { policy: "policy", wait: "waiting", prefill: "prefill", decode: "decode", store: "stores" };

export function showLegend(list) {
  list.append(...Object.entries(KINDS).map(([kind, word]) =>
    el("li", {}, el("i", { class: "stage", "data-kind": kind, "aria-hidden": "true" }), word)));
}

function kind({ name }) {
  if (name.startsWith("policy") || RELOAD.includes(name)) return "policy";
  if (["queue.wait", "admission", "coalesce.wait", "settle", "drain"].includes(name)) return "wait";
  if (name === "prefill" || name === "decode") return name;
  if (name.startsWith("session.") || name.startsWith("cache.")) return "store";
  return "rest";
}

const isChange = (trace) => trace.name === "policy.reload";
const isWorthTelling = (trace) => !["unchanged", undefined].includes(trace.attributes["stent.reload.result"]);

const RELOAD = ["verify", "compile", "instantiate", "probe", "cases", "swap"];
const rows = new Map();

/** Both lists; what is unfolded stays so. `audit`: the lines of the audit log, oldest first. */
export function showTraces(requests, changes, traces, audit) {
  const asked = traces.filter((trace) => !isChange(trace)).slice(0, SHOWN);
  fill(requests, asked.map((trace) => ({ key: trace.trace_id + trace.id, stages: trace.stages.length,
    make: () => requestRow(trace) })));
  fill(changes, changed(traces.filter((trace) => isChange(trace) && isWorthTelling(trace)), audit));
}

/** The last changes. Requests soon push their traces out; the audit log keeps them, but for what was
 * rejected. */
function changed(traces, audit) {
  const all = new Map();
  for (const line of audit) {
    const { generation, at_ms } = line;
    const lines = [...(all.get(generation)?.lines ?? []), line];
    all.set(generation, { key: `change ${at_ms} ${generation}`, at_ms, lines, stages: 0, make: () => auditRow(lines) });
  }
  for (const trace of traces) {
    const { "stent.reload.result": result, "stent.policy.generation": generation } = trace.attributes;
    const known = result === "rejected" ? null : all.get(generation);
    const key = known?.key ?? trace.trace_id + trace.id;
    all.set(known ? generation : key, { key, at_ms: known?.at_ms ?? trace.at_ms, stages: trace.stages.length,
      make: () => changeRow(trace) });
  }
  return [...all.values()].sort((a, b) => b.at_ms - a.at_ms).slice(0, CHANGES);
}

function fill(list, items) {
  if (!items.length) return;
  arrange(list, items.map(({ key, stages, make }) => {
    const known = rows.get(key);
    // A stage may end after its request; a change's may be gone, and are still shown.
    if (known && known.stages >= stages) return known.node;
    const open = known?.node.querySelector("details")?.open ?? false;
    const node = make();
    node.querySelector("details").open = open;
    rows.set(key, { node, stages });
    return node;
  }));
  if (rows.size > 400) {
    for (const [key, { node }] of rows) if (!node.isConnected) rows.delete(key);
  }
}

function requestRow(trace) {
  const { attributes } = trace;
  const decode = trace.stages.find((stage) => stage.name === "decode");
  const speed = decode?.attributes["stent.tokens.per_second"];
  const outcome = attributes["stent.outcome"] ?? "–";
  return el("li", {}, el("details", {},
    el("summary", {},
      el("time", { datetime: new Date(trace.at_ms).toISOString() }, time(trace.at_ms)),
      el("span", { class: "route" }, trace.name.replace("POST ", "")),
      el("span", { class: "chip", "data-outcome": outcome }, outcome),
      bars(trace),
      el("span", { class: "n first" }, `first ${duration(firstWords(trace))}`),
      el("span", { class: "n total" }, duration(trace.duration_us)),
      el("span", { class: "n gen" }, `gen ${attributes["stent.policy.generation"] ?? "–"}`)),
    waterfall(trace, [
      speed && `${speed.toFixed(1)} tokens/s`,
      decode && `${decode.attributes["stent.tokens.output"]} tokens`,
    ])));
}

function changeRow(trace) {
  const of = (name) => trace.attributes[`stent.policy.${name}`];
  const result = trace.attributes["stent.reload.result"];
  const policy = [of("hook"), of("name") ?? of("file"), of("version")].filter(Boolean).join(" ");
  return el("li", {}, el("details", {},
    el("summary", {},
      el("time", { datetime: new Date(trace.at_ms).toISOString() }, time(trace.at_ms)),
      el("span", { class: "route" }, policy),
      el("span", { class: "chip", "data-outcome": result }, result),
      bars(trace),
      el("span", { class: "n total" }, duration(trace.duration_us)),
      el("span", { class: "n gen" }, `gen ${of("generation") ?? "–"}`)),
    waterfall(trace, [trace.attributes["stent.reload.reason"]])));
}

/** A change of which no stages are known: what the audit log says. */
function auditRow(lines) {
  const [{ at_ms, what, generation }] = lines;
  const digest = (sha256) => sha256.slice(0, 8) || "none";
  return el("li", {}, el("details", {},
    el("summary", {},
      el("time", { datetime: new Date(at_ms).toISOString() }, time(at_ms)),
      el("span", { class: "route" }, lines.map(({ hook }) => hook).join(", ")),
      el("span", { class: "chip", "data-outcome": what }, what),
      el("span", { class: "line", "aria-hidden": "true" }),
      el("span", { class: "n total" }, "–"),
      el("span", { class: "n gen" }, `gen ${generation}`)),
    el("div", { class: "waterfall" }, lines.map(({ hook, by, from, to, reason }) =>
      el("p", {}, el("span", {}, `${hook}, by ${by}: ${digest(from)} → ${digest(to)} · ${reason}`))))));
}

const time = (ms) => new Date(ms).toLocaleTimeString(undefined, { hour12: false });

/** Where a stage lies on its request's time, in percent. */
function place(node, trace, stage) {
  const end = Math.max(trace.duration_us, ...trace.stages.map((it) => it.start_us + it.duration_us), 1);
  node.style.left = `${(100 * Math.max(stage.start_us, 0)) / end}%`;
  node.style.width = `${(100 * stage.duration_us) / end}%`;
  return node;
}

const leaves = (trace) => {
  const parents = new Set(trace.stages.map((stage) => stage.parent));
  return trace.stages.filter((stage) => !parents.has(stage.id));
};

/** All stages in one line. */
function bars(trace) {
  return el("span", { class: "line", "aria-hidden": "true" },
    leaves(trace).map((stage) => place(el("i", { class: "stage", "data-kind": kind(stage) }), trace, stage)));
}

/** One line a stage, those below it moved in. */
function waterfall(trace, facts) {
  const depth = (stage) => {
    const parent = trace.stages.find((it) => it.id === stage.parent);
    return parent ? depth(parent) + 1 : 0;
  };
  const stages = trace.stages.map((stage) => {
    const name = el("span", { class: "what" }, stage.name, says(stage));
    name.style.paddingLeft = `${depth(stage) * 0.9}rem`;
    return el("li", { "data-failed": stage.failed ? "yes" : null }, name,
      el("span", { class: "line", "aria-hidden": "true" },
        place(el("i", { class: "stage", "data-kind": kind(stage) }), trace, stage)),
      el("span", { class: "n" }, duration(stage.duration_us)));
  });
  const told = facts.filter(Boolean);
  return el("div", { class: "waterfall" },
    el("p", {}, told.length ? el("span", {}, told.join(" · ")) : null, traceLink(trace.trace_id)),
    el("ol", { role: "list" }, stages));
}

/** The one fact of a stage that is worth its place. */
function says({ name, attributes }) {
  const of = (key) => attributes[`stent.${key}`];
  const text = name.startsWith("policy") && of("policy.name") ? `${of("policy.name")} ${of("policy.outcome") ?? ""}`
    : name === "prefill" ? `${of("tokens.prompt")} tokens, ${of("tokens.reused")} reused`
    : name === "decode" ? `${of("tokens.output")} tokens`
    : name === "cache.lookup" ? `${of("cache.key") ?? ""} ${of("cache.result") ?? ""}`
    : name === "admission" ? `${of("queue.depth")} before it` : null;
  return text && el("small", {}, ` ${text}`);
}
