// The chat: which conversation is shown, what is sent, and what becomes of its answer.

import { arrange, ask as dialog, el, glyph, mark, say } from "../shared/dom.js";
import { themeButton } from "../shared/theme.js";
import { Conversation, Conversations, Exchange } from "./conversations.js";
import { stent, useKey } from "./server.js";
import { Line, View } from "./view.js";
import { LOST, STOPPED, explain } from "./words.js";

const MENU = "M4 7h16M4 12h16M4 17h16";
const SEND = "M12 19V5m-6 6 6-6 6 6";
const STOP = "M7 7h10v10H7z";
const EXAMPLES = ["What is diabetes?", "What are the symptoms of asthma?", "How is high blood pressure treated?"];
/** Answers whose figures are kept; the server remembers no more exchanges than that by default. */
const MOST_TOLD = 200;
/** For another answer in the last one's place, drawn anew. */
const AGAIN = { trigger: "regenerate-message" };

const at = (id) => document.getElementById(id);
const conversations = new Conversations();
const views = new WeakMap();
const lines = new WeakMap();
let current = new Conversation();

themeButton(at("theme"));
at("menu").append(glyph(MENU));
at("send").append(glyph(SEND));
at("stop").append(glyph(STOP));

// --- asking

/** Asks in the shown conversation. `before`: the exchange whose answer another one is to replace;
 * `trigger` as the server knows it. */
function send(question, before = null, how = {}) {
  const conversation = current;
  if (!question.trim() || conversation.busy) return;
  const exchange = new Exchange(question, before);
  conversation.show(exchange);
  conversation.name(question);
  conversation.at = Date.now();
  conversations.add(conversation);
  show();
  jump();
  // The button that sent it may be gone.
  message.focus();
  tell("Your question was sent.");
  follow(conversation, exchange, stent.ask(question, { sessionId: conversation.session ?? undefined, ...how }));
}

/** Reads an answer to its end. */
async function follow(conversation, exchange, answer) {
  conversation.reading = answer;
  try {
    for await (const part of answer) take(conversation, exchange, part);
    exchange.told = answer.summary ?? null;
    exchange.state = answer.finishReason === "abort" ? "stopped" : answer.finishReason ? "done" : "failed";
    exchange.problem = { stopped: STOPPED, failed: LOST }[exchange.state] ?? null;
  } catch (error) {
    exchange.state = "failed";
    exchange.problem = explain(error, Boolean(exchange.answer));
  }
  conversation.reading = null;
  conversation.open = null;
  exchange.reconnecting = false;
  ended(conversation, exchange);
}

/** One part of an answer. */
function take(conversation, exchange, part) {
  exchange.reconnecting = part.type === "reconnecting";
  switch (part.type) {
    case "start":
      exchange.answer = part.id;
      conversation.session ??= part.sessionId ?? null;
      conversation.open = { answer: part.id, question: exchange.question, again: Boolean(exchange.before) };
      conversations.save();
      list();
      break;
    case "text":
      exchange.state = "writing";
      exchange.text += part.text;
      break;
    case "queued":
      Object.assign(exchange, { state: "queued", position: part.position });
      if (conversation === current) tell(`Place ${exchange.position} in the queue.`);
      break;
    case "trimmed":
      exchange.dropped = part.dropped;
      break;
  }
  views.get(exchange)?.soon();
  if (conversation === current) stick();
}

function ended(conversation, exchange) {
  conversation.settle(exchange, MOST_TOLD);
  conversation.at = Date.now();
  conversations.save();
  views.get(exchange)?.update();
  if (conversation === current) {
    if (!conversation.loaded || !conversation.exchanges.includes(exchange)) show();
    stick();
    tell({
      done: `The answer is complete: ${exchange.text}`,
      stopped: exchange.problem?.text,
      failed: exchange.problem?.text,
    }[exchange.state]);
  }
  list();
  controls();
}

function retry(exchange) {
  if (current.busy) return;
  if (exchange.state === "done") return send(exchange.question, exchange, AGAIN);
  // Of what was lost on the way the server may remember all; of what was stopped, nothing.
  current.exchanges = current.exchanges.filter((it) => it !== exchange);
  send(exchange.question, null, exchange.problem === LOST ? AGAIN : { seed: "random" });
}

/** The server would write on for a while for whoever comes back; nobody will. */
function stop() {
  current.reading?.stop();
}

async function enterKey(exchange) {
  const key = await dialog({ title: "The server's key", yes: "Use it",
    text: "Whoever runs this server gave you one. It is kept until you close this tab.",
    field: { type: "password", label: "Key" } });
  if (!key) return;
  useKey(key);
  message.focus();
  if (exchange) retry(exchange);
  else open(current);
}

// --- conversations

async function open(conversation) {
  current = conversation;
  drawer(false);
  const fetches = !conversation.loaded && conversation.session && !conversation.busy;
  if (fetches) Object.assign(conversation, { fetching: true, trouble: null });
  show();
  jump();
  if (!fetches) return;
  try {
    conversation.take(await stent.history(conversation.session));
    if (!conversation.exchanges.length && !conversation.open) {
      conversation.trouble = { text: "The server no longer remembers this conversation. You can go on, from the beginning." };
    }
  } catch (error) {
    conversation.trouble = explain(error);
  }
  conversation.fetching = false;
  // It was forgotten meanwhile.
  if (!conversations.all.includes(conversation)) return;
  if (current === conversation) {
    show();
    jump();
  }
  if (conversation.open && conversation.loaded) comeBack(conversation);
}

/** An answer was being written when this page was left: the rest of it, if the server kept it. */
function comeBack(conversation) {
  const { answer, question, again } = conversation.open;
  const exchange = new Exchange(question, again ? conversation.exchanges.at(-1) : null);
  Object.assign(exchange, { answer, resumed: true });
  conversation.show(exchange);
  show();
  follow(conversation, exchange, stent.resume(answer));
}

async function forget(conversation) {
  const agreed = await dialog({ title: "Forget this conversation?", yes: "Forget", danger: true,
    text: "The server forgets what was said, and it leaves your list. This cannot be undone." });
  if (!agreed) return;
  conversation.reading?.stop();
  try {
    if (conversation.session) await stent.forget(conversation.session);
  } catch (error) {
    conversation.trouble = { text: `It could not be forgotten. ${explain(error).text}` };
    show();
    return;
  }
  conversations.remove(conversation);
  tell("The conversation was forgotten.");
  message.focus();
  if (current === conversation) open(new Conversation());
  else list();
}

// --- the page

function show() {
  const nodes = current.exchanges.map((exchange) => {
    if (!views.has(exchange)) {
      views.set(exchange, new View(exchange, {
        retry: () => retry(exchange),
        key: () => enterKey(exchange),
      }));
    }
    const view = views.get(exchange);
    view.update();
    return view.node;
  });
  const { trouble } = current;
  if (trouble) {
    nodes.unshift(el("p", { class: "trouble" }, el("span", {}, trouble.text),
      trouble.key && el("button", { type: "button", onclick: () => enterKey(null) }, "Enter the key"),
      trouble.again && !current.running && el("button", { type: "button", onclick: () => {
        message.focus();
        open(current);
      } }, "Try again")));
  } else if (current.fetching) {
    nodes.unshift(el("p", { class: "state" }, "Fetching what was said…"));
  }
  arrange(at("log"), nodes);
  at("empty").hidden = nodes.length > 0;
  say(at("title"), current.title || "New conversation");
  document.title = current.title ? `${current.title} · Stent` : "Stent";
  list();
  controls();
}

function list() {
  arrange(at("list"), conversations.listed.map((conversation) => {
    if (!lines.has(conversation)) lines.set(conversation, new Line(conversation, () => open(conversation)));
    const line = lines.get(conversation);
    line.update(current);
    return line.node;
  }));
}

function controls() {
  const running = Boolean(current.running);
  if (!running && document.activeElement === at("stop")) message.focus();
  at("stop").hidden = !running;
  at("send").hidden = running;
  at("send").disabled = current.fetching || !at("message").value.trim();
  at("forget").hidden = !current.title;
}

/** Says something to those who do not see the page. */
function tell(text) {
  say(at("told"), text ?? "");
}

const page = document.scrollingElement;
let sticking = true;
// Another tab asked, or forgot.
addEventListener("storage", ({ key }) => {
  if (!conversations.keeps(key)) return;
  conversations.sync(current);
  list();
});

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
  const was = document.body.classList.contains("drawn");
  document.body.classList.toggle("drawn", shown);
  mark(at("menu"), { "aria-expanded": String(shown) });
  // What lies behind the list is out of reach, for the keyboard too.
  at("page").inert = shown;
  if (was && !shown) at("menu").focus();
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
  if (!text.trim() || current.busy) return;
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
  const health = await (await stent.request("GET", "/health")).json();
  say(at("model"), health.model);
  at("demo").hidden = !health.demo;
} catch {
  say(at("model"), "the server does not answer");
}
const left = conversations.listed.find((it) => it.open);
if (left) open(left);
else show();
