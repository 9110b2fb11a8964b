// The chat for those who use no mouse: what has the focus keeps it, and it is never lost.

import { check, open, serve, until } from "./support.mjs";
import { answered, send } from "./steps.mjs";

/** Presses Tab, or another key, until what has the focus has this name. */
async function reach(page, name, key = "Tab") {
  for (let at = 0; at < 40; at += 1) {
    if (await focused(page) === name) return;
    await page.keyboard.press(key);
  }
  throw new Error(`${key} does not lead to ${name}, but to ${await focused(page)}`);
}

/** The name of what has the focus, as `document.activeElement` tells it. */
const focused = (page) => page.evaluate(() => {
  const node = document.activeElement;
  return node.getAttribute("aria-label") ?? node.labels?.[0]?.textContent
    ?? node.querySelector?.(".name")?.textContent ?? node.textContent;
});

export const KEYBOARD = {
  async "a conversation is chosen, a question asked, stopped and asked again, by the keyboard alone"({ browser, binary }) {
    const server = await serve(binary, "engine.kind=scripted", "engine.script.token=40ms", "cache.store=off",
      `engine.script.text=${"word ".repeat(60)}`);
    try {
      const page = await open(browser, server.base);
      const rests = (what) => until(`${what} has the focus`, async () => (await focused(page)) === what);
      const writes = () => page.locator(".answer[aria-busy] .text").getByText("word").waitFor();
      const press = async (name, key) => {
        await reach(page, name, key);
        await page.keyboard.press("Enter");
      };
      await send(page, "First");
      await answered(page, 1);
      await press("New conversation", "Shift+Tab");
      await rests("Your message");
      await page.keyboard.type("Second");
      await page.keyboard.press("Enter");
      await answered(page, 1);
      await page.reload();
      // Chosen: its button keeps the focus while the history comes and when another tab changes the list.
      await page.locator("#list button").nth(1).waitFor();
      await press("First");
      await answered(page, 1);
      check("it is the one that is shown", (await page.locator("#title").innerText()) === "First");
      check(`the button keeps the focus: ${await focused(page)}`, (await focused(page)) === "First");
      const other = await page.context().newPage();
      await other.goto(server.base);
      await send(other, "Third");
      await answered(other, 1);
      await other.close();
      await until("three are listed", async () => (await page.locator("#list button").count()) === 3);
      check(`still: ${await focused(page)}`, (await focused(page)) === "First");
      // Asked and stopped.
      await reach(page, "Your message");
      await page.keyboard.type("And more");
      await press("Send");
      await writes();
      await rests("Your message");
      await press("Stop the answer");
      await page.locator(".trouble").getByText("You stopped this answer").waitFor();
      await rests("Your message");
      await press("Try again", "Shift+Tab");
      await writes();
      await rests("Your message");
      // It ends by itself while Stop has the focus.
      await reach(page, "Stop the answer");
      await answered(page, 2);
      await rests("Your message");
      await press("Ask again for another answer", "Shift+Tab");
      await writes();
      await rests("Your message");
      await answered(page, 2);
      await press("Forget", "Shift+Tab");
      await press("Forget");
      await until("two are listed", async () => (await page.locator("#list button").count()) === 2);
      await rests("Your message");
      // An example's button is gone once it is asked.
      await press("What is diabetes?", "Shift+Tab");
      await writes();
      await rests("Your message");
      return page;
    } finally {
      server.stop();
    }
  },
};
