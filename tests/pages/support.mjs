// A real gateway and a real browser.

import { spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
/** Long enough for a machine that builds something else at the same time. */
export const PATIENCE = 60_000;

export const freePort = () => new Promise((resolve) => {
  const server = net.createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address();
    server.close(() => resolve(port));
  });
});

/** `stent serve` with these `--set` values, ready. */
export async function serve(binary, ...sets) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "stent-pages-"));
  const policies = path.join(folder, "policies");
  fs.mkdirSync(policies);
  const [listen, admin] = [await freePort(), await freePort()].map((port) => `127.0.0.1:${port}`);
  const given = ["engine.n_ctx=2048", "engine.mlock=false", ...sets].flatMap((set) => ["--set", set]);
  const log = fs.openSync(path.join(folder, "log"), "w");
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("STENT_")));
  const child = spawn(binary, ["serve", "--listen", listen, "--admin", admin, "--policies", policies,
    "--data", path.join(folder, "data"), "--model", path.join(ROOT, "models/demo/stent-demo.gguf"), ...given],
    { stdio: ["ignore", log, log], env });
  const server = {
    base: `http://${listen}`,
    admin: `http://${admin}`,
    log: () => fs.readFileSync(path.join(folder, "log"), "utf8"),
    /** Puts a file into the policies folder, whole. */
    drop(name, bytes) {
      const half = path.join(policies, `.${name}.tmp`);
      fs.writeFileSync(half, bytes);
      fs.renameSync(half, path.join(policies, name));
    },
    stop() {
      child.kill("SIGKILL");
      fs.rmSync(folder, { recursive: true, force: true });
    },
  };
  const end = Date.now() + PATIENCE;
  for (;;) {
    const ready = await fetch(`${server.base}/ready`).then((it) => it.ok, () => false);
    if (ready) return server;
    if (Date.now() > end || child.exitCode !== null) throw new Error(`no gateway came up:\n${server.log()}`);
    await new Promise((later) => setTimeout(later, 50));
  }
}

export async function browse() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
      "--disable-background-networking", "--disable-component-update"],
  });
}

/** A page that fails the test when anything on it fails. */
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.troubles = [];
  page.on("pageerror", (error) => page.troubles.push(`${url}: ${error}`));
  page.on("console", (message) => {
    const text = message.text();
    // What a test provokes on purpose is a status, not a fault of the page.
    if (message.type() === "error" && !text.startsWith("Failed to load resource")) page.troubles.push(text);
  });
  // While the pages are being worked on: their sources instead of what the binary holds.
  if (process.env.STENT_PAGES) {
    await page.route("**/assets/**", (route) => {
      const file = route.request().url().replace(/^.*\/assets\/[0-9a-f]+\//, "");
      const client = file.endsWith("/stent-client.js");
      route.fulfill({ path: client ? path.join(ROOT, "deploy/nextjs/stent-client.js") : path.join(process.env.STENT_PAGES, file) });
    });
    await page.route((at) => ["/", "/console"].includes(at.pathname), async (route) => {
      const response = await route.fetch();
      const served = await response.text();
      const which = served.includes("Stent console") ? "console" : "chat";
      const trace = /name="stent-trace-url" content="(.*?)"/.exec(served)?.[1] ?? "";
      const html = fs.readFileSync(path.join(process.env.STENT_PAGES, which, "index.html"), "utf8");
      route.fulfill({ response, status: 200, contentType: "text/html", body: html.replaceAll("{digest}", "0000000000000000").replace("{trace-url}", () => trace) });
    });
  }
  await page.goto(url);
  return page;
}

/** A way to the gateway that can be cut, and be led to another one. */
export async function wire(server) {
  const sockets = new Set();
  const proxy = net.createServer((near) => {
    const far = net.connect(Number(new URL(server.base).port), "127.0.0.1");
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on("close", () => sockets.delete(socket));
      // Cut on purpose.
      socket.on("error", () => {});
    }
    near.pipe(far).pipe(near);
  });
  await new Promise((listening) => proxy.listen(0, "127.0.0.1", listening));
  return {
    base: `http://127.0.0.1:${proxy.address().port}`,
    cut: () => sockets.forEach((socket) => socket.destroy()),
    lead: (other) => {
      server = other;
      sockets.forEach((socket) => socket.destroy());
    },
    close: () => proxy.close(),
  };
}

/** Waits until it holds, and says what it waited for when it does not. */
export async function until(what, holds) {
  const end = Date.now() + PATIENCE;
  let last;
  for (;;) {
    try {
      if (await holds()) return;
      last = null;
    } catch (error) {
      last = error;
    }
    if (Date.now() > end) throw new Error(`${what}: not within ${PATIENCE / 1000} s${last ? ` (${last.message})` : ""}`);
    await new Promise((later) => setTimeout(later, 50));
  }
}

export function check(what, holds) {
  if (!holds) throw new Error(what);
}
