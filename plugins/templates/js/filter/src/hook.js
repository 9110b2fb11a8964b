// Replaces a word while the answer is produced, wherever a chunk ends.

export const summary = 'Replaces a word in answers';

export class Config {
  static current;

  constructor(settings) {
    this.word = settings.word;
    this.replacement = settings.replacement;
  }

  // The word itself, a character at a time.
  selfTest() {
    const filter = new Filter();
    const emitted = [...this.word].map((letter) => filter.push(letter).val).join('');
    if (emitted + filter.finish() !== this.replacement) {
      throw 'self-test: the word is not replaced across chunk borders';
    }
  }
}

// The filter of one answer.
class Filter {
  // An end that may become the word.
  held = '';

  static open(_request) {
    return new Filter();
  }

  push(chunk) {
    const { word, replacement } = Config.current;
    const parts = (this.held + chunk).split(word);
    const rest = parts.pop();
    let begins = Math.max(0, rest.length - word.length + 1);
    while (!word.startsWith(rest.slice(begins))) begins += 1;
    this.held = rest.slice(begins);
    const emitted = [...parts, rest.slice(0, begins)].join(replacement);
    return { tag: 'emit', val: emitted };
  }

  finish(_why) {
    return this.held;
  }
}

export const outputFilter = { Filter };
