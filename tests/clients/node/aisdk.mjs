// The AI SDK: its OpenAI-compatible provider on /v1, and what useChat reads on /chat/stream.
import { strict as assert } from "node:assert";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { DefaultChatTransport, generateText, readUIMessageStream, streamText } from "ai";
import { ENDS, REAL, SLOW, endIt, slowIsFree, thrown } from "./support.mjs";

const model = (base) =>
  createOpenAICompatible({ name: "stent", baseURL: `${base}/v1`, includeUsage: true }).chatModel("any");
const ask = (base, more) => ({ model: model(base), prompt: "What is diabetes?", maxRetries: 0, ...more });

{
  const options = { seed: 1, maxOutputTokens: 40 };
  const whole = await generateText(ask(REAL, options));
  assert(whole.text && whole.usage.outputTokens > 0);
  const stream = streamText(ask(REAL, options));
  let said = "";
  for await (const piece of stream.textStream) said += piece;
  assert.equal(said, whole.text);
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
  assert.equal(await stream.finishReason, whole.finishReason);
  const word = whole.text.split(" ")[3];
  const stopped = await generateText(ask(REAL, { ...options, stopSequences: [word] }));
  assert(!stopped.text.includes(word));
  const wrong = await thrown(() => generateText(ask(REAL, { temperature: 9 })));
  assert.equal(wrong.statusCode, 400);
  assert.match(wrong.message, /temperature/);
}

{
  const leaves = new AbortController();
  const stream = streamText(ask(SLOW, { abortSignal: leaves.signal, onError() {} }));
  for await (const _ of stream.textStream) leaves.abort();
  await slowIsFree();
  const errors = [];
  const cut = streamText(ask(ENDS, { onError: ({ error }) => errors.push(error) }));
  let ended = false;
  for await (const _ of cut.textStream) {
    if (!ended) endIt();
    ended = true;
  }
  assert.match(JSON.stringify(errors[0]?.message ?? errors[0]), /shutting down/);
}

{
  // What useChat does, with the transport that maps its messages to our body.
  const transport = (base, more = {}) =>
    new DefaultChatTransport({
      api: `${base}/chat/stream`,
      prepareSendMessagesRequest: ({ id, messages }) => ({
        body: { message: messages.at(-1).parts[0].text, session_id: id, resume: true, ...more },
      }),
      prepareReconnectToStreamRequest: ({ id }) => ({ api: `${base}/chat/stream/${id}` }),
    });
  const asked = (id) => ({
    trigger: "submit-message",
    chatId: id,
    messageId: undefined,
    messages: [{ id: "1", role: "user", parts: [{ type: "text", text: "What is diabetes?" }] }],
    abortSignal: undefined,
  });
  const read = async (stream) => {
    let last;
    for await (const message of readUIMessageStream({ stream, terminateOnError: true })) last = message;
    return last;
  };
  const text = (message) => message.parts.filter((p) => p.type === "text").map((p) => p.text).join("");
  const real = transport(REAL, { max_tokens: 30 });
  const message = await read(await real.sendMessages(asked("ui")));
  assert(text(message) && message.id.startsWith("resp_"), JSON.stringify(message));
  const summary = message.parts.find((part) => part.type === "data-stent");
  assert(summary.data.tokens > 0 && summary.data.generation > 0);
  // A page that was loaded again.
  const again = await read(await real.reconnectToStream({ chatId: "ui" }));
  assert.deepEqual([again.id, text(again)], [message.id, text(message)]);
  assert.equal(await real.reconnectToStream({ chatId: "nobody" }), null, "204 is nothing to resume");
  const wrong = await thrown(() => transport(REAL, { temperature: 9 }).sendMessages(asked("ui")));
  assert.match(wrong.message, /temperature/);
}
