// The conversations that this browser knows. It keeps a title, the session's id, which nobody can
// guess, and figures; what was said is the server's, and is fetched from there.

const KEY = "stent.conversations";
const MOST = 100;
const TITLE = 60;

/** An exchange: a question and the state of its answer. */
export class Exchange {
  state = "waiting"; // waiting, queued, writing, done, stopped or failed
  text = "";
  position = null;
  dropped = 0;
  told = null;
  problem = null;
  /** Names the answer, and its last part that came: with these it can be gone on with. */
  answer = null;
  last = null;
  /** The connection broke and is being made again. */
  reconnecting = false;

  constructor(question, again = false) {
    this.question = question;
    this.again = again;
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
  /** Why it could not be fetched. */
  trouble = null;
  abort = null;

  constructor({ session = null, title = "", at = Date.now(), told = [], open = null } = {}) {
    Object.assign(this, { session, title, at, told, open });
  }

  get running() {
    return this.exchanges.find((exchange) => exchange.isOpen) ?? null;
  }

  /** Takes the history as the server tells it. */
  take(messages) {
    this.exchanges = [];
    for (const { role, text } of messages) {
      if (role === "user") this.exchanges.push(new Exchange(text));
      const exchange = this.exchanges.at(-1);
      if (role === "assistant" && exchange) Object.assign(exchange, { text, state: "done" });
    }
    this.exchanges = this.exchanges.filter((exchange) => exchange.state === "done");
    // The answer that this page was left with has ended meanwhile.
    const last = this.exchanges.at(-1);
    if (this.open && last?.question === this.open.question && this.exchanges.length > this.told.length) {
      this.told.push(null);
      this.open = null;
    }
    // The server may have let go of the oldest; the last ones belong together.
    const shift = this.exchanges.length - this.told.length;
    this.told.forEach((told, at) => {
      if (this.exchanges[at + shift]) this.exchanges[at + shift].told = told;
    });
    this.loaded = true;
  }

  name(question) {
    if (this.title) return;
    const line = question.trim().replace(/\s+/g, " ");
    this.title = line.length > TITLE ? `${line.slice(0, TITLE - 1)}…` : line;
  }
}

export class Conversations {
  all = [];

  constructor() {
    try {
      const kept = JSON.parse(localStorage.getItem(KEY)) ?? [];
      this.all = kept.filter((it) => typeof it?.session === "string").map((it) => {
        const conversation = new Conversation(it);
        conversation.loaded = false;
        return conversation;
      });
    } catch {
      // Nothing was kept, or nothing that can be read.
    }
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
    const kept = this.listed.filter((it) => it.session).slice(0, MOST);
    const plain = kept.map(({ session, title, at, told, open }) => ({ session, title, at, told, open }));
    try {
      localStorage.setItem(KEY, JSON.stringify(plain));
    } catch {
      // Without storage the list lives as long as the page.
    }
  }
}
