// deploy/nextjs/stent-client.js.
import { strict as assert } from "node:assert";
import { ENDS, REAL, SLOW, endIt, idle, slowIsFree, thrown } from "./support.mjs";
import { Stent, StentError } from "./stent-client.mjs";

const real = new Stent({ url: REAL });

{
  const answer = real.ask("What is diabetes?", { sessionId: "js", maxTokens: 30 });
  let said = "";
  for await (const part of answer) if (part.type === "text") said += part.text;
  assert.equal(said, answer.said);
  assert(said && answer.finishReason && answer.summary.tokens > 0);
  assert.equal(answer.sessionId, "js");
  assert.equal((await real.history("js"))[1].text, said);
  assert.equal(await real.resume("js").text(), said);
  assert.equal(await real.resume(answer.id).text(), said);
  assert.equal(await real.resume("nobody").text(), "");
  const again = real.ask("What is diabetes?", { sessionId: "js", maxTokens: 20, trigger: "regenerate-message" });
  const other = await again.text();
  assert.deepEqual((await real.history("js")).map(({ text }) => text), ["What is diabetes?", other]);
  await real.forget("js");
  assert.deepEqual(await real.history("js"), []);
  assert((await real.ask("Hello").text()) !== undefined);
}

{
  const wrong = await thrown(() => real.ask("x", { temperature: 9 }).text());
  assert(wrong instanceof StentError);
  assert.deepEqual([wrong.status, wrong.code, wrong.param], [400, "invalid_value", "temperature"]);
  const slow = new Stent({ url: SLOW });
  const running = slow.ask("x");
  const parts = running[Symbol.asyncIterator]();
  await parts.next();
  const full = await thrown(() => slow.ask("y").text());
  assert.deepEqual([full.status, full.code], [429, "overloaded"]);
  assert(full.retryAfter > 0);
  // Stop ends the work although the answer could be resumed.
  running.stop();
  assert((await parts.next()).done);
  assert.equal(running.finishReason, "abort");
  await slowIsFree();
  const leaves = new AbortController();
  const aborted = slow.ask("x", { signal: leaves.signal });
  for await (const _ of aborted) leaves.abort();
  assert.equal(aborted.finishReason, "abort");
  await slowIsFree();
}

{
  // A network that loses each connection after a few hundred bytes, and the first before its answer.
  let connections = 0;
  const lossy = async (url, options) => {
    connections += 1;
    if (connections === 1) {
      const lost = await fetch(url, options);
      await lost.body.getReader().read();
      throw new TypeError("the connection was lost");
    }
    const response = await fetch(url, options);
    if (response.status !== 200) return response;
    let budget = 700;
    const { signal } = new AbortController();
    const cut = new TransformStream({
      transform(chunk, controller) {
        budget -= chunk.length;
        if (budget < 0) controller.error(new TypeError("the connection was lost"));
        else controller.enqueue(chunk);
      },
    });
    return new Response(response.body.pipeThrough(cut, { signal }), response);
  };
  const before = (await idle(process.env.SLOW_ADMIN)).generated;
  const shaky = new Stent({ url: SLOW, fetch: lossy, attempts: 20 });
  const answer = shaky.ask("again", { sessionId: "shaky", maxTokens: 12 });
  const text = await answer.text();
  assert.equal(text.trimEnd(), "This is the scripted engine: it says the same words to everyone.");
  assert(connections > 2, `${connections}`);
  await slowIsFree();
  assert.equal((await idle(process.env.SLOW_ADMIN)).generated - before, 12, "one run, whatever was lost");
  const dead = new Stent({ url: "http://127.0.0.1:9", attempts: 2 });
  const lost = await thrown(() => dead.ask("x").text());
  assert.equal(lost.code, "connection");
}

{
  const cut = await thrown(async () => {
    for await (const part of new Stent({ url: ENDS }).ask("x")) if (part.type === "text") endIt();
  });
  assert(cut instanceof StentError);
  assert.equal(cut.code, "unavailable");
}
