// The chat.

import { createHash } from "node:crypto";
import { check, open, serve, until, wire } from "./support.mjs";
import { PHONE, answered, axe, figures, fits, picture, send } from "./steps.mjs";

export const CHAT = {
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
    const forgets = page.waitForResponse((it) => it.request().method() === "DELETE" && it.url().includes("/sessions/"));
    await page.getByRole("dialog").getByRole("button", { name: "Forget" }).click();
    check("the server forgets", (await forgets).status() === 204);
    await until("one is listed", async () => (await page.locator("#list button").count()) === 1);
    return page;
  },

  async "what the demo model is stays in sight, however far one scrolls"({ browser, demo }) {
    const note = (page) => page.getByText("Demo model, not medical advice.");
    for (const options of [{ viewport: { width: 1280, height: 500 } }, PHONE]) {
      const page = await open(browser, demo.base, options);
      const questions = ["What is asthma?", "How is asthma treated?", "What is malaria?", "How is malaria treated?",
        "What is diabetes?", "What are the symptoms of diabetes?", "How is diabetes treated?"];
      for (const [at, question] of questions.entries()) {
        await send(page, question);
        await answered(page, at + 1);
      }
      const inSight = () => note(page).evaluate((node) => {
        const { left, top, width, height } = node.getBoundingClientRect();
        // Nothing lies above it either.
        return node.contains(document.elementFromPoint(left + width / 2, top + height / 2));
      });
      for (const part of [1, 0.5, 0]) {
        await page.evaluate((part) => scrollTo(0, part * document.scrollingElement.scrollHeight), part);
        check(`in sight at ${part}`, await inSight());
      }
      check("the page does scroll", await page.evaluate(() => document.scrollingElement.scrollHeight > 1.4 * innerHeight));
    }
    const phone = browser.contexts().at(-1).pages()[0];
    await fits(phone, "chat on a phone");
    await axe(phone, "chat on a phone");
    await phone.emulateMedia({ colorScheme: "dark" });
    await phone.evaluate(() => scrollTo(0, document.scrollingElement.scrollHeight));
    await picture(phone, "chat-phone");
    await phone.emulateMedia({ colorScheme: "light", reducedMotion: "reduce" });
    await phone.getByRole("button", { name: "Conversations" }).tap();
    await phone.getByRole("button", { name: "New conversation" }).waitFor();
    await fits(phone, "chat on a phone, its list open");
    await axe(phone, "chat on a phone, its list open");
    return phone;
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

  async "nothing is asked while the history is fetched, and what was asked without it stays"({ browser, binary }) {
    const server = await serve(binary, "engine.kind=scripted", "engine.script.token=60ms", "cache.store=off",
      `engine.script.text=${"word ".repeat(40)}`);
    try {
      const page = await open(browser, server.base);
      const fetches = [];
      // Held until it is let go.
      const hold = () => page.route("**/sessions/*", (route) => void fetches.push(route));
      const letGo = async () => {
        await page.unroute("**/sessions/*");
        await Promise.all(fetches.splice(0).map((route) => route.continue()));
      };
      const first = page.locator("#list button").first();
      const shown = (count) => async () => (await page.locator(".question").count()) === count;
      await send(page, "Say all of it");
      await answered(page, 1);
      await page.reload();
      await hold();
      await first.click();
      await first.click();
      await page.getByText("Fetching what was said").waitFor();
      await send(page, "And once more");
      await until("the history is asked for", () => fetches.length > 0);
      check("once", fetches.length === 1);
      check("the question waits", (await page.getByLabel("Your message").inputValue()) === "And once more"
        && await page.getByRole("button", { name: "Send" }).isDisabled());
      await letGo();
      await answered(page, 1);
      await page.getByRole("button", { name: "Send" }).click();
      await page.locator(".answer[aria-busy] .text").getByText("word").waitFor();
      check("both are shown", await shown(2)());
      // The page is loaded again meanwhile, and the conversation chosen twice: one answer is taken up.
      const taken = [];
      page.on("request", (it) => it.url().includes("/chat/stream/") && taken.push(it.url()));
      await hold();
      await page.reload();
      await first.click();
      await first.click();
      await until("the history is asked for", () => fetches.length > 0);
      await letGo();
      await answered(page, 2);
      check(`taken up once: ${taken}`, taken.length === 1 && await shown(2)());
      // It cannot be fetched: one goes on without it.
      await page.reload();
      await page.route("**/sessions/*", (route) => route.fulfill({ status: 500, json: { error: { message: "it is broken" } } }));
      await first.click();
      const again = page.locator("#log > .trouble").getByRole("button", { name: "Try again" });
      await again.waitFor();
      await send(page, "And without it");
      await page.locator(".answer[aria-busy] .text").getByText("word").waitFor();
      check("the history waits for the answer", (await again.count()) === 0);
      await first.click();
      check("the answer can be stopped", await page.getByRole("button", { name: "Stop the answer" }).isVisible());
      await answered(page, 1);
      await send(page, "Not this one");
      await page.locator(".answer[aria-busy] .text").getByText("word").waitFor();
      await page.keyboard.press("Escape");
      await page.unroute("**/sessions/*");
      await again.click();
      await answered(page, 3);
      const asked = await page.locator(".question").allInnerTexts();
      check(`all in order: ${asked}`,
        asked.join() === "Say all of it,And once more,And without it,Not this one");
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
};
