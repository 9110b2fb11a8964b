// deploy/nextjs, built for a real gateway and clicked through.

import { execFileSync } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { ROOT, browse, check, freePort, open, serve } from "../pages/support.mjs";

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
const gateway = await serve(process.argv[2], `server.cors_origins=["${origin}"]`);
const env = { ...process.env, NEXT_PUBLIC_STENT: gateway.base, NEXT_TELEMETRY_DISABLED: "1" };
const browser = await browse();
let site;
try {
  execFileSync("npm", ["run", "--silent", "build"], { cwd: SOURCE, env, stdio: ["ignore", "ignore", "inherit"] });
  site = await files(path.join(SOURCE, "out"), port);
  const page = await open(browser, origin);
  await page.getByLabel("Your message").fill("What is diabetes?");
  await page.getByRole("button", { name: "Send" }).click();
  const strips = page.locator("article.assistant .strip");
  await strips.first().waitFor();
  const said = await page.locator("article.assistant").innerText();
  check(`an answer about diabetes: ${said}`, /diabetes/i.test(said));
  check(`its figures: ${said}`, /first word after \d+ ms .* policy generation \d+/.test(said));
  const asked = page.waitForRequest((request) => request.method() === "POST" && request.url().endsWith("/chat/stream"));
  await page.getByRole("button", { name: "Ask again" }).click();
  check("another answer is asked for", JSON.parse((await asked).postData()).trigger === "regenerate-message");
  await page.getByRole("button", { name: "Ask again" }).waitFor();
  await page.reload();
  await page.locator("article.assistant", { hasText: /diabetes/i }).first().waitFor();
  check("it has replaced the first one", (await page.locator("article").count()) === 2);
  check(page.troubles.join("\n"), page.troubles.length === 0);
  console.log("nextjs: ok, built, asked, asked again, and the history is there after a reload");
} finally {
  site?.close();
  await browser.close();
  gateway.stop();
}
process.exit(0);
