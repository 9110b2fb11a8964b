// Both pages in a real browser, against real gateways.
//
//     node tests/pages/run.mjs target/release/stent [--screenshots FOLDER] [NAME...]

import { CHAT } from "./chat.mjs";
import { CONSOLE } from "./console.mjs";
import { KEYBOARD } from "./keyboard.mjs";
import { POLICIES } from "./policies.mjs";
import { browse, check, serve } from "./support.mjs";
import { picture } from "./steps.mjs";

const [binary, ...rest] = process.argv.slice(2);
if (rest[0] === "--screenshots") rest.splice(0, 2);

const chosen = Object.entries({ ...CHAT, ...KEYBOARD, ...CONSOLE, ...POLICIES }).filter(([name]) => !rest.length || rest.some((part) => name.includes(part)));
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
    for (const [at, page] of browser.contexts().flatMap((context) => context.pages()).entries()) {
      await picture(page, `failed-${at}`).catch(() => {});
    }
  }
  for (const context of browser.contexts()) await context.close();
}
await browser.close();
demo.stop();
process.exit(failed ? 1 : 0);
