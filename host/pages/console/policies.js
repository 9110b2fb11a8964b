// The policies by hook, and what an operator does to them.

import { ask, el, mark, say } from "../shared/dom.js";
import { change } from "./admin.js";
import { duration } from "./lights.js";

const HOOKS = ["guard", "trim", "prompt", "cache", "filter"];
const rows = new Map();

/** `act(promise, doing)`: runs a change and tells how it went. */
export function showPolicies(body, policies, act) {
  const order = ({ hook }) => (hook === null ? HOOKS.length : HOOKS.indexOf(hook));
  const sorted = policies
    .map((policy) => ({ ...policy, key: [policy.hook, policy.state === "shadow" ? "shadow"
      : serves(policy) ? "serves" : policy.file].join(" ") }))
    .sort((a, b) => order(a) - order(b) || Number(serves(b)) - Number(serves(a)));
  const wanted = new Set(sorted.map(({ key }) => key));
  for (const [key, row] of rows) {
    if (wanted.has(key)) continue;
    row.node.remove();
    rows.delete(key);
  }
  sorted.forEach((policy, at) => {
    if (!rows.has(policy.key)) rows.set(policy.key, new Row(act));
    const row = rows.get(policy.key);
    row.update(policy);
    if (body.children[at] !== row.node) body.insertBefore(row.node, body.children[at] ?? null);
  });
}

export const serves = ({ state }) => state === "live" || state === "builtin";

class Row {
  constructor(act) {
    // Roles: as cards, on a phone, rows and cells would be none any more.
    const cell = (label, kind = "") => {
      const name = label.toLowerCase();
      return (this[name] = el("td", { role: "cell", class: `${name} ${kind}`, "data-label": label }));
    };
    this.hook = el("th", { scope: "row", role: "rowheader" });
    this.name = el("strong");
    this.version = el("span", { class: "version" });
    this.file = el("span", { class: "file" });
    this.reason = el("p", { class: "reason" });
    this.chip = el("span", { class: "chip" });
    this.back = el("button", { type: "button", onclick: () => this.rollBack(act) }, "Roll back");
    this.up = el("button", { type: "button", onclick: () => this.promote(act) }, "Promote");
    this.node = el("tr", { role: "row" }, this.hook,
      el("td", { role: "cell", class: "policy" }, this.name, " ", this.version, this.file, this.reason),
      el("td", { role: "cell", class: "chips" }, this.chip),
      cell("Revision", "n"), cell("Digest"), cell("Calls", "n"), cell("p50", "n"), cell("p99", "n"),
      cell("Faults", "n"),
      el("td", { role: "cell", class: "actions" }, this.back, this.up));
  }

  update(policy) {
    const swapped = this.policy && this.policy.generation !== policy.generation;
    this.policy = policy;
    mark(this.node, { "data-state": policy.state });
    // An empty place in a table says something; in a card it does not.
    mark(this.revision, { "data-none": policy.revision ? null : "yes" });
    mark(this.digest, { "data-none": policy.sha256 ? null : "yes" });
    if (swapped) this.flash();
    say(this.hook, policy.hook ?? "–");
    say(this.name, policy.name);
    say(this.version, policy.version);
    const file = policy.file?.split("/").at(-1);
    say(this.file, file ?? (policy.state === "builtin" ? "bundled" : ""));
    say(this.chip, policy.state);
    const stage = policy.stage ? `${policy.stage}: ` : "";
    say(this.reason, policy.reason ? `${stage}${policy.reason}` : "");
    this.reason.hidden = !policy.reason;
    say(this.revision, policy.revision || "–");
    say(this.digest, policy.sha256 ? policy.sha256.slice(0, 8) : "–");
    mark(this.digest, { title: policy.sha256 || null });
    say(this.calls, policy.calls ?? "–");
    say(this.p50, duration(policy.p50_us));
    say(this.p99, duration(policy.p99_us));
    say(this.faults, policy.faults ?? "–");
    mark(this.faults, { "data-some": policy.faults > 0 ? "yes" : null });
    this.back.hidden = policy.state !== "live";
    this.up.hidden = policy.state !== "shadow";
    mark(this.back, { "aria-label": `Roll back ${policy.hook}` });
    mark(this.up, { "aria-label": `Promote the shadow of ${policy.hook}` });
  }

  flash() {
    this.node.classList.remove("swapped");
    // The animation begins anew only after the class was really away.
    requestAnimationFrame(() => requestAnimationFrame(() => this.node.classList.add("swapped")));
  }

  async rollBack(act) {
    const { hook, name, revision } = this.policy;
    const agreed = await ask({ title: `Roll back ${hook}?`, yes: "Roll back", danger: true,
      text: `${name}, revision ${revision}, makes room for the revision before it. Its file stays out until it changes. Running requests end with the policies they began with.` });
    if (agreed) act(change(`admin/policies/${hook}/rollback`), `${hook} was rolled back`);
  }

  async promote(act) {
    const { hook, name } = this.policy;
    const agreed = await ask({ title: `Promote ${name}?`, yes: "Promote",
      text: `The shadow becomes the ${hook} policy that serves. The file that serves now is kept as .retired.` });
    if (agreed) act(change(`admin/policies/${hook}/promote`), `${name} was promoted`);
  }
}
