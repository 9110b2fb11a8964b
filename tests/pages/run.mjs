// Both pages in a real browser, against real gateways.
//
//     node tests/pages/run.mjs target/release/stent [--screenshots FOLDER] [NAME...]

import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { ROOT, browse, check, open, serve, until, wire } from "./support.mjs";

const [binary, ...rest] = process.argv.slice(2);
const pictures = rest[0] === "--screenshots" ? rest.splice(0, 2)[1] : null;
const AXE = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const TRIM = fs.readFileSync(path.join(ROOT, "plugins/dist/trim-exchanges.wasm"));

const send = async (page, text) => {
  await page.getByLabel("Your message").fill(text);
  await page.keyboard.press("Enter");
};
/** The last answer, once it is complete. */
const answered = async (page, count) => {
  await page.locator('.answer[data-state="done"]').nth(count - 1).waitFor();
  return page.locator(".answer").nth(count - 1);
};
const figures = async (answer) => answer.locator(".figures").innerText();
const generation = async (answer) => Number(/policy generation (\d+)/.exec(await figures(answer))[1]);

async function axe(page, name) {
  // As an isolated script: the page's own policy forbids what axe would need.
  await page.evaluate(AXE);
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
    const { violations } = await page.evaluate(() => globalThis.axe.run(document));
    const grave = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
    const told = grave.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join("\n  ")}`);
    check(`axe, ${name}, ${scheme}: ${told.join("\n")}`, grave.length === 0);
  }
}

async function picture(page, name) {
  if (!pictures) return;
  fs.mkdirSync(pictures, { recursive: true });
  await page.screenshot({ path: path.join(pictures, `${name}.png`) });
}

const TESTS = {
  async "two tabs keep one list"({ browser, demo }) {
    const one = await open(browser, demo.base);
    await send(one, "What is asthma?");
    await answered(one, 1);
    const two = await one.context().newPage();
    await two.goto(demo.base);
    await send(two, "What is malaria?");
    await answered(two, 1);
    const lists = (page, count) => async () => (await page.locator("#list button").count()) === count;
    await until("the first tab lists both", lists(one, 2));
    await send(one, "Who gets it?");
    await answered(one, 2);
    await two.reload();
    await until("what one tab keeps does not undo the other's", lists(two, 2));
    await two.locator("#list button").first().click();
    await two.getByRole("button", { name: "Forget" }).click();
    await two.getByRole("dialog").getByRole("button", { name: "Forget" }).click();
    await until("it is forgotten", lists(two, 1));
    return one;
  },

  async "a question is asked, its answer is read as it is written"({ browser, demo }) {
    const page = await open(browser, demo.base);
    await page.getByText("Demo model, not medical advice.").waitFor();
    await picture(page, "chat-empty");
    await send(page, "What is diabetes?");
    await page.locator('.answer[aria-busy="true"]').first().waitFor();
    const answer = await answered(page, 1);
    check("an answer about diabetes", /diabetes/i.test(await answer.locator(".text").innerText()));
    const told = await figures(answer);
    for (const part of [/first word after [\d.]+ m?s/, /[\d.]+ tokens\/s/, /policy generation \d+/, /trace [0-9a-f]{8}/]) {
      check(`${part} in ${told}`, part.test(told));
    }
    check("the model is told", /stent-demo/.test(await page.locator("#model").innerText()));
    await axe(page, "chat");
    // The same question in a new conversation comes from the cache; another answer is drawn anew.
    await page.getByRole("button", { name: "New conversation" }).click();
    await send(page, "What is diabetes?");
    const replayed = await answered(page, 1);
    check("cached", (await replayed.locator(".origin").innerText()) === "cached");
    await page.getByRole("button", { name: "Ask again for another answer" }).click();
    await page.locator(".origin").waitFor({ state: "detached" });
    const again = await answered(page, 1);
    check("it is drawn anew", /tokens\/s/.test(await figures(again)));
    check("it takes the old one's place", (await page.locator(".question").count()) === 1);
    const redrawn = await again.locator(".text").innerText();
    // Two conversations are listed; after a reload the first one's history comes from the server.
    check("two are listed", (await page.locator("#list button").count()) === 2);
    await page.reload();
    await page.locator("#list button").first().click();
    check("the server remembers the new one alone", (await (await answered(page, 1)).locator(".text").innerText()) === redrawn
      && (await page.locator(".question").count()) === 1);
    await page.locator("#list button").nth(1).click();
    const kept = await answered(page, 1);
    check("its text", /diabetes/i.test(await kept.locator(".text").innerText()));
    check("its figures", /tokens\/s/.test(await figures(kept)));
    // Nothing but titles and figures is kept in the browser.
    const text = (await kept.locator(".text").innerText()).slice(0, 40);
    check("no answer is kept in the browser",
      !(await page.evaluate(() => JSON.stringify(localStorage))).includes(text));
    await page.getByRole("button", { name: "Forget" }).click();
    await picture(page, "chat-forget");
    const forgets = page.waitForResponse((it) => it.request().method() === "DELETE" && it.url().includes("/sessions/"));
    await page.getByRole("dialog").getByRole("button", { name: "Forget" }).click();
    check("the server forgets", (await forgets).status() === 204);
    await until("one is listed", async () => (await page.locator("#list button").count()) === 1);
    return page;
  },

  async "what a model writes cannot run, load or lead astray"({ browser, binary }) {
    const evil = "**bold** <img src=x onerror=alert(1)> <script>document.title='owned'</script> "
      + "[a](javascript:alert(1)) [b](https://example.com/x) ![c](https://example.com/pixel.png)";
    const server = await serve(binary, "engine.kind=scripted", `engine.script.text=${evil}`);
    try {
      const page = await open(browser, server.base);
      const asked = [];
      page.on("request", (request) => asked.push(request.url()));
      await send(page, "Hello");
      const text = (await answered(page, 1)).locator(".text");
      check("markdown is rendered", (await text.locator("strong").innerText()) === "bold");
      check("no script, no image", (await text.locator("script, img").count()) === 0);
      const links = await text.locator("a[href]").evaluateAll((all) => all.map((a) => a.getAttribute("href")));
      check(`only the honest link: ${links}`, links.join() === "https://example.com/x");
      check("nothing ran", !(await page.title()).includes("owned"));
      check("nothing was loaded from elsewhere", asked.every((url) => url.startsWith(server.base)));
      return page;
    } finally {
      server.stop();
    }
  },

  async "an answer is stopped, one waits in the queue, a refusal is told in words"({ browser, binary }) {
    const server = await serve(binary, "engine.kind=scripted", "engine.slots=1", "engine.queue=1",
      "engine.script.token=100ms", `engine.script.text=${"All of these words take their time. ".repeat(40)}`);
    try {
      const [first, second, third] = await Promise.all([1, 2, 3].map(() => open(browser, server.base)));
      await send(first, "Tell me everything");
      await first.getByText("All of these").waitFor();
      await send(second, "And me");
      await second.locator(".state").getByText("You are next in the queue").waitFor();
      await send(third, "Me too");
      await third.locator(".trouble").getByText(/All places are taken at the moment\. Try again in \d+ s\./).waitFor();
      await first.keyboard.press("Escape");
      await first.locator(".trouble").getByText("You stopped this answer").waitFor();
      // The slot is free for whoever waited.
      await second.getByText("All of these").waitFor();
      await second.getByRole("button", { name: "Stop the answer" }).click();
      await second.locator(".trouble").getByText("You stopped this answer").waitFor();
      await until("all slots are idle", async () => {
        const { slots } = await (await fetch(`${server.admin}/admin/slots`)).json();
        return slots.every(({ state }) => state === "idle");
      });
      await third.getByRole("button", { name: "Try again" }).click();
      await third.getByText("All of these").waitFor();
      check("the refused question is not shown twice", (await third.locator(".question").count()) === 1);
      return first;
    } finally {
      server.stop();
    }
  },

  async "a lost connection is taken up where it was left, and so is a page that was loaded again"({ browser, binary }) {
    const words = Array.from({ length: 60 }, (_, at) => `word${at}`).join(" ");
    const server = await serve(binary, "engine.kind=scripted", "engine.script.token=60ms", `engine.script.text=${words}`);
    const line = await wire(server);
    try {
      const page = await open(browser, line.base);
      await send(page, "Say all of it");
      const text = page.locator(".answer .text");
      await text.getByText("word5").waitFor();
      line.cut();
      await page.locator(".state").getByText("Reconnecting").waitFor();
      await answered(page, 1);
      check("every word once", (await text.innerText()) === words);
      await send(page, "And once more");
      await text.nth(1).getByText("word5").waitFor();
      await page.reload();
      await page.locator(".question", { hasText: "And once more" }).waitFor();
      await answered(page, 2);
      check("every word once, after the reload", (await text.nth(1).innerText()) === words);
      return page;
    } finally {
      line.close();
      server.stop();
    }
  },

  async "another answer takes the old one's place once it is complete, and not before"({ browser, binary }) {
    const words = Array.from({ length: 30 }, (_, at) => `word${at}`).join(" ");
    const server = await serve(binary, "engine.kind=scripted", "engine.script.token=60ms", `engine.script.text=${words}`);
    const remembered = async (page) => {
      const [{ session }] = await page.evaluate(() => JSON.parse(localStorage.getItem("stent.conversations")));
      return (await (await fetch(`${server.base}/sessions/${session}`)).json()).messages.map(({ text }) => text.trim());
    };
    try {
      const page = await open(browser, server.base);
      const again = () => page.getByRole("button", { name: "Ask again for another answer" }).click();
      await send(page, "Say all of it");
      await answered(page, 1);
      await send(page, "And once more");
      await answered(page, 2);
      check("the last answer alone", (await page.locator(".retry:visible").count()) === 1);
      await again();
      await page.locator(".answer[aria-busy] .text").getByText("word3").waitFor();
      await page.keyboard.press("Escape");
      await page.getByText("The answer from before is still there.").waitFor();
      check("it is", (await (await answered(page, 2)).locator(".text").innerText()) === words);
      check("on the server, too", (await remembered(page)).length === 4);
      await page.getByRole("button", { name: "Try again" }).click();
      await page.locator(".answer[aria-busy] .text").getByText("word3").waitFor();
      // The page is loaded again meanwhile: the new answer is read to its end.
      await page.reload();
      await page.locator('.answer[aria-busy="true"]').waitFor();
      await answered(page, 2);
      check("one question each", (await page.locator(".question").count()) === 2);
      check("nothing is amiss", (await page.locator(".trouble:visible").count()) === 0);
      const asked = ["Say all of it", words, "And once more", words];
      check("an exchange each", (await remembered(page)).join() === asked.join());
      return page;
    } finally {
      server.stop();
    }
  },

  async "a server that asks for a key is given one"({ browser, binary }) {
    const key = "a-key-for-the-browser-that-nobody-else-has";
    const sha256 = createHash("sha256").update(key).digest("hex");
    const server = await serve(binary, `server.keys=[{ tenant = "ward", sha256 = "${sha256}" }]`);
    try {
      const page = await open(browser, server.base);
      await send(page, "What is diabetes?");
      await page.getByRole("button", { name: "Enter the key" }).click();
      await page.getByRole("dialog").getByLabel("Key").fill(key);
      await page.getByRole("button", { name: "Use it" }).click();
      const answer = await answered(page, 1);
      check("an answer", /diabetes/i.test(await answer.locator(".text").innerText()));
      check("the key is kept for this tab alone", !(await page.evaluate(() => JSON.stringify(localStorage))).includes(key));
      return page;
    } finally {
      server.stop();
    }
  },

  async "two who ask the same share a run, and each answer leads to its trace"({ browser, binary }) {
    const words = Array.from({ length: 40 }, (_, at) => `word${at}`).join(" ");
    const server = await serve(binary, "engine.kind=scripted", "engine.script.token=80ms", "cache.store=off",
      "telemetry.trace_url=http://127.0.0.1:9/trace/{trace_id}", `engine.script.text=${words}`);
    try {
      const [first, second] = await Promise.all([1, 2].map(() => open(browser, server.base)));
      await send(first, "Say all of it");
      await first.locator(".answer .text").getByText("word2").waitFor();
      await send(second, "Say all of it");
      await answered(first, 1);
      const shared = await answered(second, 1);
      check("shared", (await shared.locator(".origin").innerText()) === "shared");
      const link = await first.locator(".strip a").getAttribute("href");
      check(`a link to the trace: ${link}`, /^http:\/\/127\.0\.0\.1:9\/trace\/[0-9a-f]{32}$/.test(link));
      return first;
    } finally {
      server.stop();
    }
  },

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

  async "a policy is dropped, seen, rejected with its reason, and rolled back"({ browser, demo }) {
    const chat = await open(browser, demo.base);
    const page = await open(browser, demo.admin, { viewport: { width: 1360, height: 1180 } });
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
    check("its calls are counted", Number(await row.locator(".calls").innerText()) >= 1
      || (await until("calls", async () => Number(await row.locator(".calls").innerText()) >= 1), true));
    await page.locator("#changes .chip", { hasText: "swapped" }).first().waitFor();
    // A broken one, dropped onto the page.
    const dropped = await page.evaluateHandle(() => {
      const data = new DataTransfer();
      data.items.add(new File(["\0asm\x01\0\0\0 this is no module"], "mine.wasm", { type: "application/wasm" }));
      return data;
    });
    for (const event of ["dragover", "drop"]) await page.dispatchEvent("main", event, { dataTransfer: dropped });
    const broken = page.locator('#rows tr[data-state="rejected"]', { hasText: "mine" });
    await broken.locator(".reason").waitFor();
    check("its reason", (await broken.locator(".reason").innerText()).length > 15);
    await page.getByRole("alert").waitFor();
    await send(chat, "What is diabetes?");
    check("the last good one serves", (await generation(await answered(chat, 3))) === after);
    await axe(page, "console");
    await page.emulateMedia({ colorScheme: "light", reducedMotion: null });
    await page.locator("#requests summary").first().click();
    await page.locator("#requests .waterfall li", { hasText: "decode" }).first().waitFor();
    await axe(page, "console, unfolded");
    await page.emulateMedia({ colorScheme: "light", reducedMotion: null });
    await page.locator(".notice").waitFor({ state: "detached" });
    await page.evaluate(() => scrollTo(0, 0));
    await picture(page, "console");
    await page.emulateMedia({ colorScheme: "dark" });
    await picture(page, "console-dark");
    await page.setViewportSize({ width: 390, height: 844 });
    await page.evaluate(() => scrollTo(0, 0));
    await picture(page, "console-phone");
    await page.setViewportSize({ width: 1360, height: 1180 });
    // Back to the bundled one.
    await page.getByRole("button", { name: "Roll back trim" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Roll back" }).click();
    await page.getByText("trim was rolled back").waitFor();
    await send(chat, "How is diabetes treated?");
    check("another generation", (await generation(await answered(chat, 4))) > after);
    // A shadow runs beside what serves until it is promoted.
    demo.drop("other.shadow.wasm", fs.readFileSync(path.join(ROOT, "plugins/dist/guard-limits.wasm")));
    await page.locator('#rows tr[data-state="shadow"]', { hasText: "guard-limits" }).waitFor();
    await page.getByRole("button", { name: "Promote the shadow of guard" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Promote" }).click();
    await page.locator('#rows tr[data-state="live"]', { hasText: "guard-limits" }).waitFor();
    await picture(chat, "chat");
    await chat.emulateMedia({ colorScheme: "dark", reducedMotion: "reduce" });
    await picture(chat, "chat-dark");
    await chat.setViewportSize({ width: 390, height: 844 });
    await picture(chat, "chat-phone");
    await chat.getByRole("button", { name: "Conversations" }).click();
    await axe(chat, "chat on a phone, its list open");
    await picture(chat, "chat-phone-list");
    return page;
  },
};

const chosen = Object.entries(TESTS).filter(([name]) => !rest.length || rest.some((part) => name.includes(part)));
const browser = await browse();
const demo = await serve(binary, "policies.cache.scope=shared", "policies.cache.config.scope=shared");
let failed = 0;
for (const [name, test] of chosen) {
  const started = Date.now();
  try {
    const page = await test({ browser, demo, binary });
    check(page.troubles.join("\n"), page.troubles.length === 0);
    console.log(`ok    ${name} (${((Date.now() - started) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    console.error(`FAIL  ${name}\n${error.stack}`);
    if (pictures) {
      for (const [at, page] of browser.contexts().flatMap((context) => context.pages()).entries()) {
        await picture(page, `failed-${at}`).catch(() => {});
      }
    }
  }
  for (const context of browser.contexts()) await context.close();
}
await browser.close();
demo.stop();
process.exit(failed ? 1 : 0);
