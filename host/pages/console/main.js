// The console: looks once a second, more often while a policy is on its way, and shows what changed.

import { el, mark, say } from "../shared/dom.js";
import { themeButton } from "../shared/theme.js";
import { Refusal, Unreachable, askToken, metrics, read, upload } from "./admin.js";
import { showLights } from "./lights.js";
import { serves, showPolicies } from "./policies.js";
import { showSlots } from "./slots.js";
import { showLegend, showTraces } from "./traces.js";

const EVERY = 1000;
/** While a file settles or is compiled. */
const OFTEN = 200;
/** Samples that the CPU's share is taken over. */
const WINDOW = 5;

const at = (id) => document.getElementById(id);
const samples = [];
let generation = null;
let known = new Map();

themeButton(at("theme"));
showLegend(at("legend"));

async function look() {
  const [policies, slots, now, traces, status] = await Promise.all([
    read("admin/policies"), read("admin/slots"), metrics(), read("admin/traces?limit=60"), read("admin/status"),
  ]);
  samples.push(now);
  if (samples.length > WINDOW) samples.shift();
  showLights(at("lights"), { now, before: samples.length > 1 ? samples[0] : null, slots, status });
  showSlots(at("slots"), slots);
  showPolicies(at("rows"), policies, act);
  showTraces(at("requests"), at("changes"), traces, await changes(now));
  showAlarms(status.alarms);
  tellChanges(policies, now);
  facts(now);
  return policies.some(({ state }) => state === "pending" || state === "compiling");
}

const audit = { of: null, reads: 0, lines: [] };

/** The changes since the start. They are read twice after each: its line is written just after it. */
async function changes(now) {
  const start = 1000 * now.sum("stent_process_start_time_seconds");
  const of = `${start} ${now.sum("stent_policy_generation")}`;
  if (audit.of !== of) Object.assign(audit, { of, reads: 0 });
  if (audit.reads < 2) {
    audit.lines = await read("admin/audit");
    audit.reads += 1;
  }
  return audit.lines.filter(({ at_ms }) => at_ms >= start);
}

function facts(now) {
  const started = now.sum("stent_process_start_time_seconds");
  const minutes = Math.floor((Date.now() / 1000 - started) / 60);
  const up = minutes < 60 ? `${minutes} min` : minutes < 2880 ? `${Math.floor(minutes / 60)} h`
    : `${Math.floor(minutes / 1440)} days`;
  const sessions = now.sum("stent_sessions") ?? 0;
  say(at("facts"), `up ${up} · ${sessions} ${sessions === 1 ? "session" : "sessions"}`);
}

function showAlarms(alarms) {
  const shown = [...at("alarms").children].map((item) => item.textContent);
  if (shown.join() !== alarms.join()) at("alarms").replaceChildren(...alarms.map((alarm) => el("li", {}, alarm)));
}

/** Says aloud what changed since the last look. */
function tellChanges(policies, now) {
  const current = now.sum("stent_policy_generation");
  say(at("generation"), `generation ${current}`);
  const said = [];
  const next = new Map();
  for (const { hook, name, state, file, sha256, reason, stage } of policies) {
    const id = serves({ state }) ? `serves ${hook}` : `${state} ${file}`;
    const what = `${name} ${sha256} ${state}`;
    next.set(id, what);
    if (known.get(id) === what || known.size === 0) continue;
    if (serves({ state })) said.push(`${name} serves ${hook} now, generation ${current}`);
    if (state === "rejected") said.push(`${name} was rejected, ${stage}: ${reason}`);
  }
  known = next;
  if (said.length) say(at("told"), said.join(". "));
  if (generation !== null && generation !== current) {
    at("generation").classList.remove("swapped");
    requestAnimationFrame(() => requestAnimationFrame(() => at("generation").classList.add("swapped")));
  }
  generation = current;
}

/** Runs a change and tells how it went. */
async function act(doing, done) {
  try {
    await doing;
    notice(done);
  } catch (error) {
    notice(error.message, true);
  }
  soon();
}

let noticed;
function notice(text, wrong = false) {
  clearTimeout(noticed);
  document.querySelector(".notice")?.remove();
  const node = el("p", { class: "notice", "data-wrong": wrong ? "yes" : null, role: wrong ? "alert" : "status" }, text);
  document.body.append(node);
  noticed = setTimeout(() => node.remove(), wrong ? 12000 : 4000);
}

async function take(files) {
  for (const file of files) {
    await act(upload(file).then((policies) => {
      const rejected = policies.find((it) => it.state === "rejected" && it.file?.endsWith(`/${file.name}`));
      if (rejected) throw new Error(`${file.name} was rejected, ${rejected.stage}: ${rejected.reason}`);
    }), `${file.name} was taken`);
  }
}

at("file").addEventListener("change", (event) => {
  take([...event.target.files]);
  event.target.value = "";
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  take([...event.dataTransfer.files]);
});

let timer;
let looking = null;

/** Looks now, and again until the page is hidden. */
async function loop() {
  clearTimeout(timer);
  let pause = EVERY;
  try {
    looking = look();
    if (await looking) pause = OFTEN;
    live();
    at("unlock").hidden = true;
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) {
      lost("locked");
      at("unlock").hidden = false;
      if (!(await askToken(error.message))) {
        looking = null;
        return;
      }
      pause = 0;
    } else {
      pause = 3 * EVERY;
      if (error instanceof Refusal || error instanceof Unreachable) {
        lost(error.message);
      } else {
        // Not the gateway's: for whoever opens the browser's own console, too.
        lost("this page has a fault, load it again");
        reportError(error);
      }
    }
  }
  looking = null;
  if (!document.hidden) timer = setTimeout(loop, pause);
}

let since = null;

function live() {
  if (since) say(at("told"), "Live again.");
  since = null;
  mark(document.body, { "data-stale": null });
  mark(at("pulse"), { "data-state": "live" });
  say(at("pulse"), "live");
}

/** What is shown has grown old: it must not look as if all were well. */
function lost(why) {
  since ??= new Date().toLocaleTimeString(undefined, { hour12: false });
  const text = `${why}, since ${since}`;
  mark(document.body, { "data-stale": "yes" });
  mark(at("pulse"), { "data-state": "lost" });
  if (at("pulse").textContent !== text) say(at("told"), text);
  say(at("pulse"), text);
}

const soon = () => looking ?? loop();
at("unlock").addEventListener("click", soon);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) soon();
});
loop();
