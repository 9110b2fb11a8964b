// What the console shows of policies and their changes.

import { check, open, serve, until } from "./support.mjs";
import { slowToCompile } from "./slow.mjs";
import { TRIM, answered, ask, axe, dropOnto, generation, picture, plugin, send } from "./steps.mjs";

export const POLICIES = {
  async "a policy is dropped, seen, rejected with its reason, and rolled back"({ browser, demo }) {
    const chat = await open(browser, demo.base);
    const page = await open(browser, demo.admin);
    await page.locator("#rows tr").nth(4).waitFor();
    check("four slots", (await page.locator("#slots li").count()) === 4);
    await send(chat, "What are the symptoms of asthma?");
    const before = await generation(await answered(chat, 1));
    await page.locator("#requests .route", { hasText: "/chat/stream" }).first().waitFor();
    demo.drop("mine.wasm", TRIM);
    const row = page.locator("#rows tr", { hasText: "mine.wasm" });
    await row.locator(".chip", { hasText: "live" }).waitFor();
    await send(chat, "How is asthma treated?");
    const after = await generation(await answered(chat, 2));
    check(`a later generation: ${before} -> ${after}`, after > before);
    await until("its calls are counted", async () => Number(await row.locator(".calls").innerText()) >= 1);
    await page.locator("#changes .chip", { hasText: "swapped" }).first().waitFor();
    // A broken one, dropped onto the page.
    await dropOnto(page, "mine.wasm", Buffer.from("\0asm\x01\0\0\0 this is no module"));
    const broken = page.locator('#rows tr[data-state="rejected"]', { hasText: "mine" });
    await broken.locator(".reason").waitFor();
    check("its reason", (await broken.locator(".reason").innerText()).length > 15);
    await page.getByRole("alert").waitFor();
    await send(chat, "What is diabetes?");
    check("the last good one serves", (await generation(await answered(chat, 3))) === after);
    await axe(page, "console");
    await page.locator("#requests summary").first().click();
    await page.locator("#requests .waterfall li", { hasText: "decode" }).first().waitFor();
    await axe(page, "console, unfolded");
    // Back to the bundled one.
    await page.getByRole("button", { name: "Roll back trim" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Roll back" }).click();
    await page.getByText("trim was rolled back").waitFor();
    await send(chat, "How is diabetes treated?");
    check("another generation", (await generation(await answered(chat, 4))) > after);
    await picture(chat, "chat");
    return page;
  },

  async "a slow policy is dropped onto the page, compiles before its eyes, then serves"({ browser, binary }) {
    const server = await serve(binary, "engine.kind=scripted", "policies.limits.compile_wall=2min",
      "policies.limits.compile_cpu=2min");
    try {
      const page = await open(browser, server.admin);
      await page.locator("#rows tr").nth(4).waitFor();
      const before = Number(/\d+/.exec(await page.locator("#generation").innerText())[0]);
      await dropOnto(page, "slow.wasm", slowToCompile(TRIM));
      await page.locator("#rows tr", { hasText: "slow.wasm" }).locator(".chip", { hasText: "compiling" }).waitFor();
      const trim = page.locator("#rows tr", { hasText: "trim" }).first();
      check("what served still does", (await trim.locator(".chip").innerText()) === "builtin");
      await trim.locator(".chip", { hasText: "live" }).waitFor();
      await page.getByText("slow.wasm was taken").waitFor();
      await page.locator("#told", { hasText: "trim-exchanges serves trim now" }).waitFor({ state: "attached" });
      const after = Number(/\d+/.exec(await page.locator("#generation").innerText())[0]);
      check(`a later generation: ${before} -> ${after}`, after > before);
      check("the swap is marked", await trim.evaluate((row) => row.classList.contains("swapped")));
      await page.locator("#changes summary", { hasText: "swapped" }).first().click();
      await page.locator("#changes .waterfall li", { hasText: "compile" }).first().waitFor();
      return page;
    } finally {
      server.stop();
    }
  },

  async "a change is still told after many requests"({ browser, binary }) {
    const server = await serve(binary, "engine.kind=scripted", "engine.script.text=Some words.");
    try {
      const page = await open(browser, server.admin);
      const told = page.locator("#changes > li", { hasText: "swapped" });
      await page.getByText("Nothing has changed since the start").waitFor();
      server.drop("mine.wasm", TRIM);
      await told.locator(".waterfall li", { hasText: "compile" }).first().waitFor({ state: "attached" });
      for (let at = 0; at < 80; at += 1) await ask(server, `Question ${at}`);
      const traces = await (await fetch(`${server.admin}/admin/traces?limit=60`)).json();
      check("its trace is pushed out", traces.every(({ name }) => name !== "policy.reload"));
      check("its stages are still shown", (await told.locator(".waterfall li").count()) > 0);
      await page.reload();
      await told.waitFor();
      check("once", (await page.locator("#changes > li").count()) === 1);
      await told.locator("summary").click();
      await told.getByText(/trim, by file: .* → [0-9a-f]{8} · .*mine\.wasm/).waitFor();
      await axe(page, "a change without its trace");
      return page;
    } finally {
      server.stop();
    }
  },

  async "a shadow runs beside what serves until it is promoted"({ browser, binary }) {
    const server = await serve(binary, "engine.kind=scripted");
    try {
      const page = await open(browser, server.admin);
      await page.locator("#rows tr").nth(4).waitFor();
      await dropOnto(page, "other.shadow.wasm", plugin("guard-limits"));
      const shadow = page.locator('#rows tr[data-state="shadow"]', { hasText: "guard-limits" });
      await shadow.waitFor();
      check("a shadow cannot be rolled back", await shadow.getByRole("button", { name: "Roll back" }).isHidden());
      await ask(server, "Hello");
      await until("its calls are counted", async () => Number(await shadow.locator(".calls").innerText()) >= 1);
      const promote = () => page.getByRole("button", { name: "Promote the shadow of guard" }).click();
      await promote();
      await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
      check("not yet", (await shadow.count()) === 1);
      await promote();
      await page.getByRole("dialog").getByRole("button", { name: "Promote" }).click();
      await page.locator('#rows tr[data-state="live"]', { hasText: "guard-limits" }).waitFor();
      await page.locator("#changes .chip", { hasText: "promoted" }).waitFor();
      check("it is no shadow any more", (await shadow.count()) === 0);
      return page;
    } finally {
      server.stop();
    }
  },
};
