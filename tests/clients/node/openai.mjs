// openai for Node, as anybody would use it.
import { strict as assert } from "node:assert";
import OpenAI from "openai";
import { ENDS, REAL, SLOW, endIt, slowIsFree, thrown } from "./support.mjs";

const client = (base) => new OpenAI({ baseURL: `${base}/v1`, apiKey: "none", maxRetries: 0 });
const ask = (text, more) => ({ model: "any", messages: [{ role: "user", content: text }], ...more });
const [real, slow] = [client(REAL), client(SLOW)];

{
  const asked = ask("What is diabetes?", { seed: 1, max_tokens: 40 });
  const whole = await real.chat.completions.create(asked);
  const text = whole.choices[0].message.content;
  assert(text);
  assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
  let said = "";
  let usage;
  const stream = await real.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    said += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(said, text, "the same seed says the same");
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
  const word = text.split(" ")[3];
  const stopped = await real.chat.completions.create({ ...asked, stop: [word] });
  assert(!stopped.choices[0].message.content.includes(word));
  await real.chat.completions.create(ask("What is asthma?", { session_id: "node", max_tokens: 8 }));
  const second = await real.chat.completions.create(ask("And what helps?", { session_id: "node", max_tokens: 8 }));
  assert(second.usage.prompt_tokens_details.cached_tokens > 0);
  assert((await real.models.list()).data[0].id);
}

{
  const wrong = await thrown(() => real.chat.completions.create(ask("x", { temperature: 9 })));
  assert(wrong instanceof OpenAI.BadRequestError);
  assert.deepEqual([wrong.param, wrong.code], ["temperature", "invalid_value"]);
  const stream = await slow.chat.completions.create(ask("x", { stream: true }));
  const full = await thrown(() => slow.chat.completions.create(ask("y")));
  assert(full instanceof OpenAI.RateLimitError);
  assert(Number(full.headers.get("retry-after")) > 0);
  // Leaving frees the place.
  for await (const _ of stream) break;
  await slowIsFree();
  const retried = await slow.chat.completions.create(ask("y", { max_tokens: 12 }), { maxRetries: 3 });
  assert(retried.choices[0].message.content);
}

{
  const stream = await client(ENDS).chat.completions.create(ask("x", { stream: true }));
  const cut = await thrown(async () => {
    for await (const chunk of stream) if (chunk.choices[0].delta.content) endIt();
  });
  assert(cut instanceof OpenAI.APIError, cut);
  assert.match(cut.message, /shutting down/);
}
