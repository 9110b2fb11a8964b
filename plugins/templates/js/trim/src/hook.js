// Keeps the last messages that fit.

export const summary = 'Keeps the last messages that fit';

export class Config {
  static current;

  constructor(settings) {
    this.messages = settings.messages;
  }

  selfTest() {} // no value of messages can make it wrong
}

export const sessionTrimmer = {
  trim(_request, budget, all) {
    return trim(Config.current.messages, budget, all.messages());
  },
};

// Walks back from the newest message. That one and pinned ones stay, so they are paid for first.
function trim(most, budget, messages) {
  const newest = messages.pop();
  if (!newest) return { tag: 'keep-all' };
  const price = (message) => message.tokens + budget.perMessage;
  const pinned = messages.filter((message) => message.pinned);
  let cost = pinned.reduce((sum, message) => sum + price(message), price(newest));
  let first = newest.id;
  const loose = messages.reverse().filter((message) => !message.pinned);
  for (const message of loose.slice(0, most - 1)) {
    cost += price(message);
    if (cost > budget.maxTokens) break;
    first = message.id;
  }
  return { tag: 'keep-from', val: first };
}
