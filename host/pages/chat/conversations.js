// The conversations that this browser knows. It keeps a title, the session's id, which nobody can
// guess, and figures; what was said is the server's, and is fetched from there.

const KEY = "stent.conversations";
const MOST = 100;
const TITLE = 60;
const STILL_THERE = "The answer from before is still there.";

/** An exchange: a question and the state of its answer. */
export class Exchange {
  state = "waiting"; // waiting, queued, writing, done, stopped or failed
  text = "";
  position = null;
  dropped = 0;
  told = null;
  problem = null;
  /** Names the answer, once the server has begun it. */
  answer = null;
  /** The connection broke and is being made again. */
  reconnecting = false;
  /** The page was left meanwhile. */
  resumed = false;

  /** `before`: the exchange whose place this one takes once it is complete, as on the server. */
  constructor(question, before = null) {
    this.question = question;
    this.before = before;
  }

  get isOpen() {
    return ["waiting", "queued", "writing"].includes(this.state);
  }
}

/** A conversation; `session` is null until the server has named it. */
export class Conversation {
  exchanges = [];
  /** The history was fetched, or there is none. */
  loaded = true;
  /** It is being fetched; nothing is asked meanwhile. */
  fetching = false;
  /** Why it could not be fetched. */
  trouble = null;
  /** The answer that is being read. */
  reading = null;

  constructor({ session = null, title = "", at = Date.now(), told = [], open = null } = {}) {
    Object.assign(this, { session, title, at, told, open });
  }

  get running() {
    return this.exchanges.find((exchange) => exchange.isOpen) ?? null;
  }

  /** One thing at a time: an answer, or the history. */
  get busy() {
    return this.fetching || Boolean(this.running);
  }

  /** Shows an exchange; the one before it makes room. */
  show(exchange) {
    this.exchanges = [...this.exchanges.filter((it) => it !== exchange.before), exchange];
  }

  /** An exchange has ended. What was to be replaced is shown again where there is nothing better;
   * figures are kept of `most` answers. */
  settle(exchange, most) {
    const { before } = exchange;
    exchange.before = null;
    if (exchange.state === "done") {
      const told = before ? this.told.slice(0, -1) : this.told;
      this.told = [...told, exchange.told].slice(-most);
    } else if (before) {
      this.exchanges = this.exchanges.map((it) => (it === exchange ? before : it));
      // Nothing is left of an answer that was complete before this page came back.
      const unknown = exchange.resumed && !exchange.text;
      before.problem = unknown ? null : { ...exchange.problem, text: `${exchange.problem.text} ${STILL_THERE}` };
    }
  }

  /** Takes the history as the server tells it. What was asked without it and came to nothing stays
   * in sight; the server knows the rest. */
  take(messages) {
    const asked = this.exchanges.filter((exchange) => exchange.state !== "done");
    this.exchanges = [];
    for (const { role, text } of messages) {
      if (role === "user") this.exchanges.push(new Exchange(text));
      const exchange = this.exchanges.at(-1);
      if (role === "assistant" && exchange) Object.assign(exchange, { text, state: "done" });
    }
    this.exchanges = this.exchanges.filter((exchange) => exchange.state === "done");
    // The answer that this page was left with has ended meanwhile.
    const last = this.exchanges.at(-1);
    if (this.open && !this.open.again && last?.question === this.open.question && this.exchanges.length > this.told.length) {
      this.told.push(null);
      this.open = null;
    }
    // The server may have let go of the oldest; the last ones belong together.
    const shift = this.exchanges.length - this.told.length;
    this.told.forEach((told, at) => {
      if (this.exchanges[at + shift]) this.exchanges[at + shift].told = told;
    });
    this.exchanges.push(...asked);
    this.loaded = true;
  }

  name(question) {
    if (this.title) return;
    const line = question.trim().replace(/\s+/g, " ");
    this.title = line.length > TITLE ? `${line.slice(0, TITLE - 1)}…` : line;
  }
}

/** The conversations that the browser keeps, their texts not loaded. */
function kept() {
  try {
    const all = JSON.parse(localStorage.getItem(KEY)) ?? [];
    return all.filter((it) => typeof it?.session === "string").map((it) => {
      const conversation = new Conversation(it);
      conversation.loaded = false;
      return conversation;
    });
  } catch {
    // Nothing was kept, or nothing that can be read.
    return [];
  }
}

export class Conversations {
  all = [];

  constructor() {
    this.all = kept();
  }

  /** Whether the list lies under this name. */
  keeps(key) {
    return key === KEY;
  }

  /** Takes over what another tab kept; what is open or under way here stays. */
  sync(open) {
    const there = kept();
    const named = new Set(there.map((it) => it.session));
    this.all = this.all.filter((it) => !it.session || it === open || it.running || named.has(it.session));
    const here = new Set(this.all.map((it) => it.session));
    this.all.push(...there.filter((it) => !here.has(it.session)));
  }

  /** Newest first; a new one is listed once it has a question. */
  get listed() {
    return this.all.filter((it) => it.title).sort((a, b) => b.at - a.at);
  }

  add(conversation) {
    if (!this.all.includes(conversation)) this.all.push(conversation);
  }

  remove(conversation) {
    this.all = this.all.filter((it) => it !== conversation);
    this.save();
  }

  save() {
    const most = this.listed.filter((it) => it.session).slice(0, MOST);
    const plain = most.map(({ session, title, at, told, open }) => ({ session, title, at, told, open }));
    try {
      localStorage.setItem(KEY, JSON.stringify(plain));
    } catch {
      // Without storage the list lives as long as the page.
    }
  }
}
