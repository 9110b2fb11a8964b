// Mistral's [INST] format with a system text:
//
//     <s>[INST]system text, question[/INST]answer</s>[INST]next question[/INST]

import { countTokens } from 'stent:policy/host@0.1.0';

export const summary = "Mistral's [INST] format with a system text";

const OPEN = '[INST]';
const CLOSE = '[/INST]';
const JOIN = '\n\n';

export class Config {
  static current;

  // Counts tokens here, ahead of requests, and not in declare, which users wait for.
  constructor(settings) {
    const mark = [OPEN, CLOSE].find((mark) => settings.system.includes(mark));
    if (mark) throw `config.system: found ${mark}, expected text without it`;
    // Ends with JOIN unless it is empty.
    this.system = settings.system && settings.system + JOIN;
    // <s> and </s> are one token each.
    const open = 1 + countTokens(OPEN);
    const close = countTokens(CLOSE);
    this.fixed = open + countTokens(this.system) + close;
    this.perMessage = Math.max(open, close, countTokens(JOIN));
  }

  selfTest() {
    if (this.perMessage < 2) {
      throw 'self-test: the host counts no tokens in the marks of the layout';
    }
  }
}

export const promptBuilder = {
  declare() {
    const { fixed, perMessage } = Config.current;
    return { fixed, perMessage, reserved: [OPEN, CLOSE] };
  },

  build(_request, kept) {
    const pieces = build(Config.current.system, kept.messages());
    // The next turn goes on behind the last [/INST], with this turn's answer.
    return { pieces, stablePieces: pieces.length, stop: [] };
  },
};

// Neighbours of one side are joined; all but the assistant's messages are on the asking side.
function build(system, messages) {
  const control = (marks) => ({ tag: 'control', val: marks });
  const text = (words) => ({ tag: 'text', val: words });
  const pieces = [control('<s>[INST]')];
  if (system) pieces.push(text(system));
  let before = null;
  for (const { id, role } of messages) {
    const side = role === 'assistant' ? 'answers' : 'asks';
    if (side === before) pieces.push(text(JOIN));
    else if (side === 'answers') pieces.push(control(CLOSE));
    else if (before) pieces.push(control('</s>[INST]'));
    pieces.push({ tag: 'message', val: id });
    before = side;
  }
  if (before !== 'asks') throw 'the last message is not a question';
  pieces.push(control(CLOSE));
  return pieces;
}
