// The admin routes: reading them, changing something, and the metrics' text.

import { ask } from "../shared/dom.js";

let token = null;
try {
  token = sessionStorage.getItem("stent.admin");
} catch {
  // Storage may be switched off.
}

/** No answer came, or it broke off. */
export class Unreachable extends Error {}

/** The server refused, in its own words. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, { headers = {}, ...options } = {}) {
  // So that the browser does not ask for a password in this page's place.
  const withToken = { "x-requested-with": "console", ...headers };
  if (token) withToken.authorization = `Bearer ${token}`;
  // Made outside: what cannot even be asked is no fault of the gateway.
  const asked = new Request(path, { ...options, headers: withToken, cache: "no-store" });
  let response, text;
  try {
    response = await fetch(asked);
    text = await response.text();
  } catch {
    throw new Unreachable("the gateway does not answer");
  }
  if (response.ok) return text;
  throw new Refusal(response.status, words(text) ?? `the server answered with status ${response.status}`);
}

/** The sentence in a refusal; what a proxy says has none. */
function words(text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return null;
  }
}

export const read = async (path) => JSON.parse(await request(path));
export const metrics = async () => new Metrics(await request("metrics"));
export const change = async (path) => JSON.parse(await request(path, { method: "POST" }));

/** Puts a file into the policies folder; answers with all policies once it serves or is rejected. */
export async function upload(file) {
  const text = await request(`admin/policies?name=${encodeURIComponent(file.name)}`, {
    method: "POST",
    headers: { "content-type": "application/octet-stream" },
    body: file,
  });
  return JSON.parse(text);
}

/** Asks the operator for the admin token; true when there is one to try. `why`: the gateway's words. */
export async function askToken(why) {
  const given = await ask({ title: "The admin token", yes: "Use it",
    text: `${token ? `It was refused: ${why}. ` : ""}This gateway asks for its admin token. It is kept until you close this tab.`,
    field: { type: "password", label: "Admin token" } });
  if (!given) return false;
  token = given;
  try {
    sessionStorage.setItem("stent.admin", given);
  } catch {
    // Then until the page is left.
  }
  return true;
}

/** The metrics of one moment. */
export class Metrics {
  samples = [];

  constructor(text) {
    this.at = performance.now();
    for (const line of text.split("\n")) {
      const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*?)\})? (-?[\d.eE+]+|[+-]?Inf|NaN)/.exec(line);
      if (!found) continue;
      const labels = {};
      for (const [, name, value] of (found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
      this.samples.push({ name: found[1], labels, value: Number(found[3]) });
    }
  }

  /** The sum of a metric over all labels that fit; null where there is none. */
  sum(name, where = {}) {
    const fits = ({ labels }) => Object.entries(where).every(([key, value]) => labels[key] === value);
    const found = this.samples.filter((sample) => sample.name === name && fits(sample));
    return found.length ? found.reduce((sum, { value }) => sum + value, 0) : null;
  }
}
