// deploy/nextjs, built for a real gateway and clicked through.

import { execFileSync } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { ROOT, browse, check, freePort, open, serve, until, wire } from "../pages/support.mjs";

const SOURCE = path.join(ROOT, "deploy/nextjs");
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css" };

/** The built files, as any web server would serve them. */
function files(folder, port) {
  const server = http.createServer((request, response) => {
    const asked = new URL(request.url, "http://x").pathname;
    const file = path.join(folder, asked === "/" ? "index.html" : path.normalize(asked));
    if (!fs.existsSync(file) || !fs.statSync(file).isFile()) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": TYPES[path.extname(file)] ?? "application/octet-stream" });
    return fs.createReadStream(file).pipe(response);
  });
  return new Promise((resolve) => server.listen(port, "127.0.0.1", () => resolve(server)));
}

const port = await freePort();
const origin = `http://127.0.0.1:${port}`;
const cors = `server.cors_origins=["${origin}"]`;
const WORDS = Array.from({ length: 50 }, (_, at) => `word${at}`).join(" ");
const demo = await serve(process.argv[2], cors);
const slow = await serve(process.argv[2], cors, "engine.kind=scripted", "engine.slots=1", "engine.queue=1",
  "engine.script.token=80ms", `engine.script.text=${WORDS}`, "cache.store=off");
// The page is built for one address; what is behind it changes, and breaks.
const line = await wire(demo);
const env = { ...process.env, NEXT_PUBLIC_STENT: line.base, NEXT_TELEMETRY_DISABLED: "1" };
const browser = await browse();
const site = await files(path.join(SOURCE, "out"), port);

const send = async (page, text) => {
  await page.getByLabel("Your message").fill(text);
  await page.getByRole("button", { name: "Send" }).click();
};
const answer = (page, text) => page.locator("article.assistant", { hasText: text }).last();
/** What went wrong; Next.js has an alert of its own outside. */
const told = (page) => page.locator('main [role="alert"]');
const idle = () => until("the slot is idle", async () => {
  const { slots } = await (await fetch(`${slow.admin}/admin/slots`)).json();
  return slots.every(({ state }) => state === "idle");
});

async function asksAndAsksAgain() {
  const page = await open(browser, origin);
  await send(page, "What is diabetes?");
  await page.locator("article.assistant .strip").first().waitFor();
  const said = await page.locator("article.assistant").innerText();
  check(`an answer about diabetes: ${said}`, /diabetes/i.test(said));
  check(`its figures: ${said}`, /first word after \d+ ms .* policy generation \d+/.test(said));
  const asked = page.waitForRequest((request) => request.method() === "POST" && request.url().endsWith("/chat/stream"));
  await page.getByRole("button", { name: "Ask again" }).click();
  check("another answer is asked for", JSON.parse((await asked).postData()).trigger === "regenerate-message");
  await page.getByRole("button", { name: "Ask again" }).waitFor();
  await page.reload();
  await answer(page, /diabetes/i).waitFor();
  check("it has replaced the first one", (await page.locator("article").count()) === 2);
  return [page];
}

async function stopsWaitsAndIsRefused() {
  const [first, second, third] = [await open(browser, origin), await open(browser, origin), await open(browser, origin)];
  await send(first, "Tell me everything");
  await answer(first, "word2").waitFor();
  await send(second, "And me");
  await second.getByText("Place 1 in the queue").waitFor();
  await send(third, "Me too");
  await told(third).getByText(/All places are taken at the moment\. Try again in \d+ s\./).waitFor();
  await first.getByRole("button", { name: "Stop" }).click();
  await first.getByRole("button", { name: "Send" }).waitFor();
  // The slot is free for whoever waited, and then for nobody.
  await answer(second, "word2").waitFor();
  check("it is stopped", !(await answer(first, "word2").innerText()).includes("word49"));
  await second.getByRole("button", { name: "Stop" }).click();
  await idle();
  await third.getByRole("button", { name: "Ask again" }).click();
  await answer(third, "word2").waitFor();
  check("the refusal is gone", (await told(third).count()) === 0);
  await third.getByRole("button", { name: "Stop" }).click();
  await idle();
  return [first, second, third];
}

async function takesUpWhatWasLost() {
  const page = await open(browser, origin);
  const runs = async () => (await (await fetch(`${slow.admin}/admin/slots`)).json()).totals.generated;
  const before = await runs();
  await send(page, "Say all of it");
  await answer(page, "word5").waitFor();
  line.cut();
  await page.getByText("Reconnecting").waitFor();
  await answer(page, "word49").locator(".strip").waitFor();
  const text = () => answer(page, "word49").locator("p").first().innerText();
  check(`every word once: ${await text()}`, (await text()) === WORDS);
  check("one run", (await runs()) - before === WORDS.split(" ").length);
  check("nothing is amiss", (await told(page).count()) + (await page.locator(".state").count()) === 0);
  // The page is loaded again while an answer is written.
  await send(page, "And once more");
  await answer(page, "word5").waitFor();
  await until("two answers", async () => (await page.locator("article").count()) === 4);
  await page.reload();
  await page.getByRole("button", { name: "Stop" }).waitFor();
  await page.getByRole("button", { name: "Ask again" }).waitFor();
  check("every word once, after the reload", (await text()) === WORDS);
  const said = await page.locator("article").allInnerTexts();
  check(`two exchanges: ${said}`, said.length === 4 && said[2].includes("And once more"));
  await page.reload();
  await answer(page, "word49").waitFor();
  check("the same once more", (await page.locator("article").count()) === 4);
  return [page];
}

try {
  execFileSync("npm", ["run", "--silent", "build"], { cwd: SOURCE, env, stdio: ["ignore", "ignore", "inherit"] });
  for (const [gateway, test] of [[demo, asksAndAsksAgain], [slow, stopsWaitsAndIsRefused], [slow, takesUpWhatWasLost]]) {
    line.lead(gateway);
    for (const page of await test()) check(page.troubles.join("\n"), page.troubles.length === 0);
    console.log(`nextjs: ok, ${test.name.replace(/[A-Z]/g, (c) => ` ${c.toLowerCase()}`)}`);
  }
} finally {
  site.close();
  line.close();
  await browser.close();
  demo.stop();
  slow.stop();
}
process.exit(0);
