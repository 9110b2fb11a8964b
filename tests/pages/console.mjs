// The operator's console.

import { createHash } from "node:crypto";
import { check, open, serve, until } from "./support.mjs";
import { PHONE, TRIM, ask, axe, fits, picture, plugin } from "./steps.mjs";

export const CONSOLE = {
  async "a console behind a token asks for it and keeps it for its tab"({ browser, binary }) {
    const token = "a-token-that-no-other-operator-has";
    const sha256 = createHash("sha256").update(token).digest("hex");
    const server = await serve(binary, "engine.kind=scripted", `server.admin_token=${sha256}`);
    try {
      const page = await open(browser, server.admin);
      const dialog = page.getByRole("dialog");
      await dialog.getByLabel("Admin token").waitFor();
      check("nothing is shown before", (await page.locator("#rows tr").count()) === 0);
      // Not now: the way in stays.
      await dialog.getByRole("button", { name: "Cancel" }).click();
      await page.locator("#pulse", { hasText: "locked" }).waitFor();
      await page.getByRole("button", { name: "Enter the admin token" }).click();
      // What no header can carry is not sent.
      await dialog.getByLabel("Admin token").fill("schlüssel");
      await dialog.getByRole("button", { name: "Use it" }).click();
      check("it is asked for again", await dialog.getByLabel("Admin token").evaluate((it) => it.matches(":invalid")));
      await dialog.getByLabel("Admin token").fill("a guess");
      await dialog.getByRole("button", { name: "Use it" }).click();
      await dialog.getByText("It was refused: the admin token is wrong.").waitFor();
      await axe(page, "the admin token is asked for");
      await dialog.getByLabel("Admin token").fill(token);
      await dialog.getByRole("button", { name: "Use it" }).click();
      await page.locator("#rows tr").nth(4).waitFor();
      check("the way in is gone", await page.getByRole("button", { name: "Enter the admin token" }).isHidden());
      await page.reload();
      await page.locator("#rows tr").nth(4).waitFor();
      check("kept for this tab", await page.evaluate(() => sessionStorage.getItem("stent.admin")) === token);
      check("and nowhere else", !(await page.evaluate(() => JSON.stringify(localStorage))).includes(token));
      // A change needs the token as well.
      await page.locator("#file").setInputFiles({ name: "mine.wasm", mimeType: "application/wasm", buffer: TRIM });
      await page.locator("#rows tr", { hasText: "mine.wasm" }).locator(".chip", { hasText: "live" }).waitFor();
      check("the log does not hold it", !server.log().includes(token));
      return page;
    } finally {
      server.stop();
    }
  },

  async "slots show what they do, the queue grows, and each request leaves its waterfall"({ browser, binary }) {
    const server = await serve(binary, "engine.kind=scripted", "engine.script.token=100ms", "engine.script.prefill=6ms",
      "cache.store=off", `engine.script.text=${"All of these words take their time. ".repeat(20)}`);
    try {
      const page = await open(browser, server.admin, { viewport: { width: 1280, height: 1480 },
        permissions: ["clipboard-read", "clipboard-write"] });
      server.drop("mine.wasm", TRIM);
      const slots = (state) => page.locator(`#slots li[data-state="${state}"]`);
      const light = (name) => page.locator("#lights li", { hasText: name });
      await slots("idle").nth(3).waitFor();
      check("nobody waits", (await light("Queue").locator("strong").innerText()) === "0");
      // A prompt that takes its time, to be seen.
      const answers = [ask(server, "Tell me everything that there is to be told. ".repeat(20), "one")];
      await slots("prefill").waitFor();
      const first = await slots("prefill").innerText();
      check(`its prompt: ${first}`, /prefill\s+0 tokens\s+prompt [1-9]\d\d/.test(first));
      await slots("decode").waitFor();
      const tokens = async () => Number(/(\d+) tokens/.exec(await slots("decode").first().innerText())[1]);
      const seen = await tokens();
      await until("more tokens", async () => (await tokens()) > seen);
      const second = await slots("decode").first().innerText();
      check(`tokens and their pace, and whose they are: ${second}`,
        /decode\s+\d+ tokens\s+\d+\.\d\/s\s+prompt \d+(, \d+ reused)?\s+[0-9a-f]{8}/.test(second));
      check("the session's id is not told", !second.includes("one"));
      // Six at once: four slots are busy, and two wait.
      for (const name of ["two", "three", "four", "five", "six"]) answers.push(ask(server, `And ${name}?`, name));
      await slots("decode").nth(3).waitFor();
      await light("Queue").getByText("watch").waitFor();
      check("two wait", (await light("Queue").locator("strong").innerText()) === "2");
      check("all are busy", (await light("Queue").innerText()).includes("4 of 4 slots busy"));
      await axe(page, "console at work");
      // The live list: whoever is done appears at its top.
      const list = page.locator("#requests > li");
      await list.first().locator(".chip", { hasText: "ok" }).waitFor();
      await list.first().locator("summary").click();
      const stages = list.first().locator(".waterfall li");
      for (const name of ["queue.wait", "prefill", "decode", "session.append"]) {
        await stages.filter({ has: page.locator(".what", { hasText: name }) }).first().waitFor();
      }
      const bar = async (name) => (await stages.filter({ hasText: name }).first().locator(".stage").boundingBox());
      const [prefill, decode] = [await bar("prefill"), await bar("decode")];
      check("decode comes after prefill, and takes longer", decode.x >= prefill.x + prefill.width - 2 && decode.width > prefill.width);
      await picture(page, "console");
      await page.emulateMedia({ colorScheme: "dark" });
      await picture(page, "console-dark");
      await page.emulateMedia({ colorScheme: "light" });
      await page.setViewportSize(PHONE.viewport);
      await page.evaluate(() => document.getElementById("slots-title").scrollIntoView());
      await picture(page, "console-phone");
      await page.setViewportSize({ width: 1280, height: 1480 });
      // The trace's id, to look for elsewhere.
      const copy = list.first().locator(".trace");
      check("it looks like a button", await copy.evaluate((node) => {
        const { borderTopWidth, borderTopStyle, paddingLeft } = getComputedStyle(node);
        return borderTopStyle === "solid" && parseFloat(borderTopWidth) >= 1 && parseFloat(paddingLeft) >= 6;
      }));
      await copy.click();
      await copy.getByText("trace id copied").waitFor();
      const copied = await page.evaluate(() => navigator.clipboard.readText());
      const known = (await (await fetch(`${server.admin}/admin/traces`)).json()).map(({ trace_id }) => trace_id);
      check(`a trace's id: ${copied}`, known.includes(copied));
      await Promise.all(answers);
      await list.nth(5).waitFor();
      await slots("idle").nth(3).waitFor();
      await light("Queue").getByText("good").waitFor();
      check("what is unfolded stays so", (await page.locator("#requests details[open]").count()) === 1);
      return page;
    } finally {
      server.stop();
    }
  },

  async "lights change their colours where the watch-list says so"({ browser, binary }) {
    const server = await serve(binary, "engine.kind=scripted");
    try {
      const page = await open(browser, server.admin);
      const light = (name) => page.locator("#lights li", { hasText: name });
      // As it is: what the process holds.
      await light("Memory").getByText("good").waitFor();
      const { process } = await (await fetch(`${server.admin}/admin/status`)).json();
      const shown = parseFloat(await light("Memory").locator("strong").innerText());
      check(`the process's own memory: ${shown} of ${process.resident}`, Math.abs(shown - process.resident / 2 ** 30) < 0.1);
      // As it might be.
      const might = { gib: 10, cpu: 50, words: 0.4, restarts: 0 };
      const began = Date.now();
      await page.route("**/metrics", async (route) => {
        const response = await route.fetch();
        const used = ((Date.now() - began) / 1000) * (might.cpu / 100) * 8;
        const fake = { stent_memory_resident_bytes: might.gib * 2 ** 30, stent_cpus: 8, stent_cpu_seconds_total: used };
        const body = (await response.text()).replaceAll(/^(\w+) [\d.e+]+$/gm, (line, name) => (name in fake ? `${name} ${fake[name]}` : line));
        await route.fulfill({ response, body });
      });
      await page.route("**/admin/status", async (route) => {
        const response = await route.fetch();
        const status = await response.json();
        status.first_words = { p95: might.words, answers: 9 };
        status.restarts = { day: might.restarts, crashes: 0 };
        await route.fulfill({ response, json: status });
      });
      const colours = new Set();
      for (const [word, state, levels] of [
        ["good", "good", { gib: 19.9, cpu: 50, words: 0.9, restarts: 0 }],
        ["watch", "warn", { gib: 20, cpu: 88, words: 1, restarts: 2 }],
        ["critical", "bad", { gib: 24.1, cpu: 300, words: 3.1, restarts: 3 }],
      ]) {
        Object.assign(might, levels);
        for (const name of ["Memory", "CPU", "First words", "Restarts"]) {
          const node = light(name);
          await node.locator(".word", { hasText: word }).waitFor();
          const colour = await node.locator(".word").evaluate((it) => getComputedStyle(it).color);
          colours.add(`${state} ${colour}`);
        }
        await axe(page, `lights that are ${state}`);
      }
      check(`a colour for each: ${[...colours]}`, colours.size === 3);
      check("the values", (await light("Memory").innerText()).includes("24.1 GiB") && (await light("First words").innerText()).includes("3.10 s"));
      return page;
    } finally {
      server.stop();
    }
  },

  async "a fault of the page is not told as an outage, and an outage is told"({ browser, binary }) {
    const server = await serve(binary, "engine.kind=scripted");
    try {
      const page = await open(browser, server.admin);
      const pulse = page.locator("#pulse");
      await pulse.getByText("live").waitFor();
      await page.route("**/admin/slots", (route) => route.fulfill({ json: { slots: null } }));
      await pulse.getByText("this page has a fault").waitFor();
      check("it is told to the browser's console", (await page.troubles).length > 0);
      page.troubles.length = 0;
      await page.unroute("**/admin/slots");
      await pulse.getByText("live").waitFor();
      await page.route("**/admin/slots", (route) => route.fulfill({ status: 502, body: "<h1>Bad gateway</h1>" }));
      await pulse.getByText("the server answered with status 502").waitFor();
      await page.unroute("**/admin/slots");
      await pulse.getByText("live").waitFor();
      page.troubles.length = 0;
      server.stop();
      await pulse.getByText("the gateway does not answer").waitFor();
      check("what is shown looks old", (await page.locator("main").evaluate((it) => getComputedStyle(it).filter)) !== "none");
      return page;
    } finally {
      server.stop();
    }
  },

  async "everything on the console can be reached on a phone"({ browser, binary }) {
    const server = await serve(binary, "engine.kind=scripted", "engine.script.text=Some words.");
    try {
      const page = await open(browser, server.admin, PHONE);
      await page.locator("#rows tr").nth(4).waitFor();
      server.drop("mine.wasm", TRIM);
      server.drop("other.shadow.wasm", plugin("guard-limits"));
      server.drop("broken.wasm", Buffer.from("this is no module, and its name is rather long for a narrow screen"));
      await page.locator('#rows tr[data-state="rejected"]').waitFor();
      await page.getByRole("button", { name: "Roll back trim" }).waitFor();
      await page.getByRole("button", { name: "Promote the shadow of guard" }).waitFor();
      await ask(server, "Hello");
      await page.locator("#requests summary").first().tap();
      await page.locator("#requests .waterfall li", { hasText: "decode" }).waitFor();
      await page.locator("#changes summary").first().tap();
      await fits(page, "console on a phone");
      await axe(page, "console on a phone");
      await page.getByRole("button", { name: "Use dark colours" }).tap();
      await page.getByRole("button", { name: "Use light colours" }).waitFor();
      await page.getByRole("button", { name: "Roll back trim" }).tap();
      await fits(page, "a question on a phone");
      await page.getByRole("dialog").getByRole("button", { name: "Roll back" }).tap();
      await page.getByText("trim was rolled back").waitFor();
      await page.getByText("choose a file").tap({ trial: true });
      await page.locator("#file").setInputFiles({ name: "chosen.wasm", mimeType: "application/wasm",
        buffer: plugin("prompt-mistral") });
      await page.locator("#rows tr", { hasText: "chosen.wasm" }).locator(".chip", { hasText: "live" }).waitFor();
      // What goes wrong is told, and does not break the page.
      await page.route("**/admin/slots", (route) => route.abort());
      await page.locator("#pulse", { hasText: "the gateway does not answer" }).waitFor();
      await fits(page, "an outage on a phone");
      return page;
    } finally {
      server.stop();
    }
  },
};
