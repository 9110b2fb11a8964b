// What tests of both pages do.

import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { ROOT, check } from "./support.mjs";

const AXE = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
/** Where pictures go, if they are wanted. */
const PICTURES = process.argv[3] === "--screenshots" ? process.argv[4] : null;

export const send = async (page, text) => {
  await page.getByLabel("Your message").fill(text);
  await page.keyboard.press("Enter");
};

/** The last answer, once it is complete. */
export const answered = async (page, count) => {
  await page.locator('.answer[data-state="done"]').nth(count - 1).waitFor();
  return page.locator(".answer").nth(count - 1);
};

export const figures = async (answer) => answer.locator(".figures").innerText();
export const generation = async (answer) => Number(/policy generation (\d+)/.exec(await figures(answer))[1]);

export async function axe(page, name) {
  // As an isolated script: the page's own policy forbids what axe would need.
  await page.evaluate(AXE);
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
    const { violations } = await page.evaluate(() => globalThis.axe.run(document));
    const grave = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
    const told = grave.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join("\n  ")}`);
    check(`axe, ${name}, ${scheme}: ${told.join("\n")}`, grave.length === 0);
  }
  await page.emulateMedia({ colorScheme: "light", reducedMotion: null });
}

export async function picture(page, name) {
  if (!PICTURES) return;
  fs.mkdirSync(PICTURES, { recursive: true });
  // As WebP, which Playwright itself does not write: half of a PNG's bytes.
  const cdp = await page.context().newCDPSession(page);
  const { data } = await cdp.send("Page.captureScreenshot", { format: "webp", quality: 90 });
  fs.writeFileSync(path.join(PICTURES, `${name}.webp`), Buffer.from(data, "base64"));
}

/** A phone. */
export const PHONE = { viewport: { width: 375, height: 740 }, isMobile: true, hasTouch: true };

/** Nothing lies beyond the edge of a phone, and what can be pressed can be hit (WCAG 2.2, 2.5.8). */
export async function fits(page, name) {
  const told = await page.evaluate((width) => {
    const shown = (node) => node.checkVisibility({ visibilityProperty: true }) && !node.closest("[inert]");
    const all = [...document.querySelectorAll("body *")].filter(shown);
    const scrolls = all.filter((node) => ["auto", "scroll"].includes(getComputedStyle(node).overflowX)
      && node.scrollWidth > node.clientWidth);
    const page = document.scrollingElement.scrollWidth > width ? [document.documentElement] : [];
    const controls = all.filter((node) => node.matches("button, a[href], summary, label[for], textarea")
      && !node.matches(".skip, .visually-hidden"));
    const box = (node) => node.getBoundingClientRect();
    return Object.entries({
      "scrolls sideways": [...page, ...scrolls],
      "is beyond the edge": controls.filter((node) => box(node).left < 0 || box(node).right > width),
      "is too small for a finger": controls.filter((node) => box(node).width < 24 || box(node).height < 24),
    }).flatMap(([what, nodes]) => nodes.map((node) => `${node.outerHTML.slice(0, 120)} ${what}`));
  }, page.viewportSize().width);
  check(`${name}: ${told.join("\n")}`, told.length === 0);
}

export const plugin = (name) => fs.readFileSync(path.join(ROOT, `plugins/dist/${name}.wasm`));
export const TRIM = plugin("trim-exchanges");

/** Asks the gateway without a page; resolves when the answer is complete. */
export const ask = async (server, message, session) => (await fetch(`${server.base}/chat/stream`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ message, session_id: session }),
})).text();

/** As if somebody had dragged the file here. */
export async function dropOnto(page, name, bytes) {
  const dropped = await page.evaluateHandle(async ([name, text]) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name, { type: "application/wasm" }));
    return data;
  }, [name, bytes.toString("base64")]);
  await page.dispatchEvent("main", "dragover", { dataTransfer: dropped });
  check("the place to drop it is shown", await page.locator("#drop.over").isVisible());
  await page.dispatchEvent("main", "drop", { dataTransfer: dropped });
}
