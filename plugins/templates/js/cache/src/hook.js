// Answers a question that stands alone from memory, whatever its case, spacing and closing
// marks. In a conversation the whole prompt is the key.

export const summary = 'Answers the same question again from memory';

export class Config {
  static current;

  constructor(settings) {
    this.ttlMs = 1000n * BigInt(settings.ttl_seconds);
  }

  selfTest() {
    if (normalise(' What  is asthma ?') !== normalise('what is asthma')) {
      throw 'self-test: two spellings of one question differ';
    }
  }
}

export const cache = {
  decide(_request, all) {
    const messages = all.messages();
    const alone = messages.length === 1 && messages[0].role === 'user';
    const question = alone ? normalise(all.text(messages[0].id)) : '';
    const basis = question ? { tag: 'parts', val: [question] } : { tag: 'exact-prompt' };
    return { tag: 'by', val: { basis, scope: 'session', maxAgeMs: Config.current.ttlMs } };
  },

  // An answer that was cut off, filtered or empty is not worth repeating.
  admit(_request, _all, answer, outcome) {
    const whole = outcome.finish === 'stop' && answer.bytes() > 0n;
    return whole ? { tag: 'store', val: Config.current.ttlMs } : { tag: 'skip' };
  },
};

function normalise(question) {
  const words = question.split(/[ \t\n\f\r]+/).filter((word) => word);
  const lower = words.join(' ').replace(/[A-Z]/g, (letter) => letter.toLowerCase());
  return lower.replace(/[ .,;:!?]+$/, '');
}
