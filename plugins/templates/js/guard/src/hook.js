// Refuses messages that are too long.

import { length } from './settings.js';

export const summary = 'Refuses messages that are too long';

export class Config {
  static current;

  constructor(settings) {
    this.maxChars = settings.max_chars;
  }

  selfTest() {} // no value of max_chars can make it wrong
}

export const guard = {
  check(_request, all) {
    const newest = all.messages().at(-1);
    if (!newest) throw 'the transcript is empty';
    const found = length(all.text(newest.id));
    const most = Config.current.maxChars;
    if (found <= most) return { tag: 'allow' };
    return {
      tag: 'refuse',
      val: `Your message has ${found} characters, at most ${most} are read. Please shorten it.`,
    };
  },
};
