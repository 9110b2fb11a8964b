// The chat: which conversation is shown, what is sent, and what becomes of its answer.

import { ask as dialog, el, glyph, mark, say } from "../shared/dom.js";
import { themeButton } from "../shared/theme.js";
import { Conversation, Conversations, Exchange } from "./conversations.js";
import { Broken, Refusal, ask, call, resume, useKey } from "./stream.js";
import { View } from "./view.js";
import { explain, when } from "./words.js";

const MENU = "M4 7h16M4 12h16M4 17h16";
const SEND = "M12 19V5m-6 6 6-6 6 6";
const STOP = "M7 7h10v10H7z";
const EXAMPLES = ["What is diabetes?", "What are the symptoms of asthma?", "How is high blood pressure treated?"];
/** Times that a lost connection is made again, and the pause before the first; each next is twice as long. */
const TRIES = 5;
const PAUSE = 500;
/** Answers whose figures are kept; the server remembers no more exchanges than that by default. */
const MOST_TOLD = 200;

const at = (id) => document.getElementById(id);
const conversations = new Conversations();
const views = new Map();
let current = new Conversation();

themeButton(at("theme"));
at("menu").append(glyph(MENU));
at("send").append(glyph(SEND));
at("stop").append(glyph(STOP));

// --- asking

/** Asks in the shown conversation. `seed`: "random" for another answer than the last one. */
async function send(question, { seed, again = false } = {}) {
  const conversation = current;
  if (!question.trim() || conversation.running) return;
  const exchange = new Exchange(question, again);
  conversation.exchanges.push(exchange);
  conversation.name(question);
  conversation.at = Date.now();
  conversations.add(conversation);
  show();
  jump();
  tell("Your question was sent.");
  // The answer is written on if the connection is lost: stopping it has to be said.
  const body = { message: question, resume: true };
  if (conversation.session) body.session_id = conversation.session;
  if (seed) body.seed = seed;
  await follow(conversation, exchange, (signal) => ask(body, signal));
}

/** Reads an answer to its end, over as many connections as it takes. */
async function follow(conversation, exchange, open) {
  conversation.abort = new AbortController();
  const { signal } = conversation.abort;
  for (let tries = 0; ; ) {
    try {
      for await (const { id, part } of open(signal)) {
        if (id) exchange.last = id;
        exchange.reconnecting = false;
        tries = 0;
        take(conversation, exchange, part);
      }
      if (exchange.isOpen) exchange.state = "done";
      break;
    } catch (error) {
      if (signal.aborted) {
        exchange.state = "stopped";
        break;
      }
      const lost = error instanceof Broken || error instanceof TypeError;
      if (lost && exchange.answer && exchange.last && tries < TRIES) {
        exchange.reconnecting = true;
        views.get(exchange)?.soon();
        await new Promise((later) => setTimeout(later, PAUSE * 2 ** tries));
        tries += 1;
        open = (signal) => resume(exchange.answer, conversation.session, exchange.last, signal);
        continue;
      }
      exchange.state = "failed";
      // An answer that cannot be gone on with was lost with its connection.
      const gone = error instanceof Refusal && exchange.answer;
      exchange.problem = explain(gone ? new Broken() : error);
      break;
    }
  }
  conversation.abort = null;
  conversation.open = null;
  exchange.reconnecting = false;
  ended(conversation, exchange);
}

/** One part of an answer. */
function take(conversation, exchange, part) {
  switch (part.type) {
    case "start":
      exchange.answer = part.messageId;
      conversation.session ??= part.messageMetadata?.session_id ?? null;
      conversation.open = { answer: part.messageId, question: exchange.question };
      conversations.save();
      list();
      break;
    case "text-delta":
      exchange.state = "writing";
      exchange.text += part.delta;
      break;
    case "data-stent":
      if (part.data.queued) {
        Object.assign(exchange, { state: "queued", position: part.data.queued.position });
        if (conversation === current) tell(`Place ${exchange.position} in the queue.`);
      } else if (part.data.trimmed) {
        exchange.dropped = part.data.trimmed.dropped;
      } else {
        exchange.told = part.data;
      }
      break;
    case "abort":
      exchange.state = "stopped";
      break;
    case "error":
      exchange.state = "failed";
      exchange.problem = explain(new Refusal(0, { message: part.errorText, code: part.code }));
      exchange.problem.again = true;
      break;
  }
  views.get(exchange)?.soon();
  if (conversation === current) stick();
}

function ended(conversation, exchange) {
  if (exchange.state === "done") conversation.told = [...conversation.told, exchange.told].slice(-MOST_TOLD);
  conversation.at = Date.now();
  conversations.save();
  views.get(exchange)?.update();
  if (conversation === current) {
    stick();
    tell({
      done: `The answer is complete: ${exchange.text}`,
      stopped: "The answer was stopped.",
      failed: exchange.problem?.text,
    }[exchange.state]);
  }
  list();
  controls();
}

function retry(exchange) {
  if (current.running) return;
  // What the server does not remember is replaced; what it does remember stays, here too.
  if (exchange.state !== "done") {
    current.exchanges = current.exchanges.filter((it) => it !== exchange);
  }
  send(exchange.question, { seed: "random", again: exchange.state === "done" });
}

async function stop() {
  const exchange = current.running;
  if (!exchange) return;
  const { session } = current;
  current.abort?.abort();
  if (exchange.answer) {
    // The server may keep writing for a while for whoever comes back; nobody will.
    const query = session ? `?session_id=${encodeURIComponent(session)}` : "";
    await call(`chat/stream/${encodeURIComponent(exchange.answer)}${query}`, { method: "DELETE" }).catch(() => {});
  }
}

async function enterKey(exchange) {
  const key = await dialog({ title: "The server's key", yes: "Use it",
    text: "Whoever runs this server gave you one. It is kept until you close this tab.",
    field: { type: "password", label: "Key" } });
  if (!key) return;
  useKey(key);
  if (exchange) retry(exchange);
  else open(current);
}

// --- conversations

async function open(conversation) {
  current = conversation;
  drawer(false);
  show();
  jump();
  if (conversation.loaded || !conversation.session) return;
  conversation.trouble = null;
  try {
    const response = await call(`sessions/${encodeURIComponent(conversation.session)}`);
    conversation.take((await response.json()).messages);
  } catch (error) {
    if (error instanceof Refusal && error.status === 404) {
      conversation.loaded = true;
      if (!conversation.open) {
        conversation.trouble = { text: "The server no longer remembers this conversation. You can go on, from the beginning." };
      }
    } else {
      conversation.trouble = explain(error);
    }
  }
  if (current === conversation) {
    show();
    jump();
  }
  if (conversation.open && conversation.loaded) comeBack(conversation);
}

/** An answer was being written when this page was left: the rest of it, if the server kept it. */
function comeBack(conversation) {
  const { answer, question } = conversation.open;
  const exchange = new Exchange(question);
  exchange.answer = answer;
  conversation.exchanges.push(exchange);
  show();
  follow(conversation, exchange, (signal) => resume(answer, conversation.session, null, signal));
}

async function forget(conversation) {
  const agreed = await dialog({ title: "Forget this conversation?", yes: "Forget", danger: true,
    text: "The server forgets what was said, and it leaves your list. This cannot be undone." });
  if (!agreed) return;
  conversation.abort?.abort();
  try {
    if (conversation.session) {
      await call(`sessions/${encodeURIComponent(conversation.session)}`, { method: "DELETE" });
    }
  } catch (error) {
    // What the server does not know it need not forget.
    if (!(error instanceof Refusal && error.status === 404)) {
      conversation.trouble = { text: `It could not be forgotten. ${explain(error).text}` };
      show();
      return;
    }
  }
  conversations.remove(conversation);
  tell("The conversation was forgotten.");
  if (current === conversation) open(new Conversation());
  else list();
}

// --- the page

function show() {
  const log = at("log");
  log.replaceChildren(...current.exchanges.map((exchange) => {
    if (!views.has(exchange)) {
      views.set(exchange, new View(exchange, {
        retry: () => retry(exchange),
        key: () => enterKey(exchange),
      }));
    }
    return views.get(exchange).node;
  }));
  const { trouble } = current;
  if (trouble) {
    log.prepend(el("p", { class: "trouble" }, el("span", {}, trouble.text),
      trouble.key && el("button", { type: "button", onclick: () => enterKey(null) }, "Enter the key"),
      trouble.again && el("button", { type: "button", onclick: () => open(current) }, "Try again")));
  } else if (!current.loaded) {
    log.prepend(el("p", { class: "state" }, "Fetching what was said…"));
  }
  at("empty").hidden = log.childElementCount > 0;
  say(at("title"), current.title || "New conversation");
  document.title = current.title ? `${current.title} · Stent` : "Stent";
  list();
  controls();
}

function list() {
  at("list").replaceChildren(...conversations.listed.map((conversation) =>
    el("li", {},
      el("button", { type: "button", class: "bare", "aria-current": conversation === current ? "true" : null,
        onclick: () => open(conversation) },
        el("span", { class: "name" }, conversation.title),
        el("span", { class: "when" }, conversation.running ? "writing" : when(conversation.at))))));
}

function controls() {
  const running = Boolean(current.running);
  at("stop").hidden = !running;
  at("send").hidden = running;
  at("send").disabled = !at("message").value.trim();
  at("forget").hidden = !current.title;
}

/** Says something to those who do not see the page. */
function tell(text) {
  say(at("told"), text ?? "");
}

const page = document.scrollingElement;
let sticking = true;
addEventListener("scroll", () => {
  sticking = page.scrollHeight - page.scrollTop - innerHeight < 80;
}, { passive: true });

/** Follows the answer's end, unless somebody reads further up. */
function stick() {
  if (sticking) requestAnimationFrame(() => page.scrollTo(0, page.scrollHeight));
}

function jump() {
  sticking = true;
  stick();
}

function drawer(shown) {
  document.body.classList.toggle("drawn", shown);
  mark(at("menu"), { "aria-expanded": String(shown) });
  // What lies behind the list is out of reach, for the keyboard too.
  at("page").inert = shown;
}

const message = at("message");

/** Grows with its text where the browser does not do it by itself. */
function grow() {
  if (CSS.supports("field-sizing", "content")) return;
  message.style.height = "auto";
  message.style.height = `${message.scrollHeight}px`;
}

function submit() {
  const text = message.value;
  if (!text.trim() || current.running) return;
  message.value = "";
  grow();
  send(text);
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
message.addEventListener("input", () => {
  grow();
  controls();
});
message.addEventListener("keydown", (event) => {
  // While a word is being composed (Japanese, Chinese), Enter belongs to the input method.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (document.body.classList.contains("drawn")) {
    drawer(false);
    at("menu").focus();
  } else {
    stop();
  }
});
at("stop").addEventListener("click", () => {
  stop();
  message.focus();
});
at("new").addEventListener("click", () => {
  open(new Conversation());
  message.focus();
});
at("forget").addEventListener("click", () => forget(current));
at("menu").addEventListener("click", () => {
  const shown = !document.body.classList.contains("drawn");
  drawer(shown);
  if (shown) at("new").focus();
});
at("veil").addEventListener("click", () => drawer(false));
at("examples").append(...EXAMPLES.map((example) =>
  el("li", {}, el("button", { type: "button", onclick: () => send(example) }, example))));

try {
  const health = await (await call("health")).json();
  say(at("model"), health.model);
  at("demo").hidden = !health.demo;
} catch {
  say(at("model"), "the server does not answer");
}
const left = conversations.listed.find((it) => it.open);
if (left) open(left);
else show();
