//! From tokens to text that may be sent: whole characters only, nothing of a stop sequence, no
//! space in front.

use crate::types::Token;

/// Text that is ready, with the tokens it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    pub text: String,
    pub tokens: Vec<Token>,
}

/// Puts one answer's text together.
#[derive(Debug)]
pub struct Assembler {
    stops: Vec<String>,
    /// Bytes that are not yet a whole character.
    bytes: Vec<u8>,
    /// Characters that may turn out to be the start of a stop sequence.
    held: String,
    /// Tokens that are not sent yet, and how many bytes of held text and bytes each adds up to.
    tokens: Vec<(Token, usize)>,
    /// Length of all text seen so far, sent and held, and of the text sent.
    seen: usize,
    sent: usize,
    /// Nothing but blanks was seen so far.
    fresh: bool,
}

impl Assembler {
    /// Empty stop sequences are ignored: they would stop everything.
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self {
            stops,
            bytes: Vec::new(),
            held: String::new(),
            tokens: Vec::new(),
            seen: 0,
            sent: 0,
            fresh: true,
        }
    }

    /// Takes one token's bytes. Returns what may be sent, and whether a stop sequence was met: then
    /// the text ends before it.
    pub fn push(&mut self, token: Token, bytes: &[u8]) -> (Piece, bool) {
        self.bytes.extend_from_slice(bytes);
        self.decode(false);
        // SentencePiece puts a space before the first word; it belongs to no one.
        if self.fresh && !self.held.is_empty() {
            self.fresh = false;
            if self.held.starts_with(' ') {
                self.held.remove(0);
                self.seen -= 1;
            }
        }
        self.tokens.push((token, self.seen + self.bytes.len()));
        let stop = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        match stop {
            Some(at) => {
                self.held.truncate(at);
                self.bytes.clear();
                (self.send(at), true)
            }
            None => {
                let ready = self.held.len() - self.partial_stop();
                (self.send(ready), false)
            }
        }
    }

    /// The answer is over: what was held back is sent, a broken character as U+FFFD.
    pub fn finish(&mut self) -> Piece {
        self.decode(true);
        self.send(self.held.len())
    }

    /// Moves whole characters from `bytes` to `held`; bytes that can never become a character are
    /// replaced.
    fn decode(&mut self, all: bool) {
        let before = self.held.len();
        loop {
            match std::str::from_utf8(&self.bytes) {
                Ok(text) => {
                    self.held.push_str(text);
                    self.bytes.clear();
                    break;
                }
                Err(error) => {
                    let (good, rest) = self.bytes.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(good));
                    match error.error_len() {
                        // The character may go on with the next token.
                        None if !all => {
                            self.bytes = rest.to_vec();
                            break;
                        }
                        len => {
                            self.held.push(char::REPLACEMENT_CHARACTER);
                            self.bytes = rest[len.unwrap_or(rest.len())..].to_vec();
                        }
                    }
                }
            }
        }
        self.seen += self.held.len() - before;
    }

    /// Bytes at the end of the held text with which a stop sequence may begin.
    fn partial_stop(&self) -> usize {
        let longest = |stop: &String| {
            let most = stop.len().min(self.held.len() + 1) - 1;
            let fits =
                |&len: &usize| stop.is_char_boundary(len) && self.held.ends_with(&stop[..len]);
            (1..=most).rev().find(fits).unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }

    fn send(&mut self, len: usize) -> Piece {
        let text: String = self.held.drain(..len).collect();
        self.sent += text.len();
        let whole = self
            .tokens
            .iter()
            .take_while(|(_, end)| *end <= self.sent)
            .count();
        let tokens = self.tokens.drain(..whole).map(|(token, _)| token).collect();
        Piece { text, tokens }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(pieces: &[&[u8]], stops: &[&str]) -> (String, Vec<Token>, bool) {
        let mut assembler = Assembler::new(stops.iter().map(|s| (*s).into()).collect());
        let (mut text, mut tokens) = (String::new(), Vec::new());
        for (token, bytes) in pieces.iter().enumerate() {
            let (piece, stopped) = assembler.push(token as Token, bytes);
            text += &piece.text;
            tokens.extend(piece.tokens);
            if stopped {
                return (text, tokens, true);
            }
        }
        let rest = assembler.finish();
        tokens.extend(rest.tokens);
        (text + &rest.text, tokens, false)
    }

    #[test]
    fn a_split_character_waits_for_its_end() {
        let mut assembler = Assembler::new(Vec::new());
        assert_eq!(
            assembler.push(1, b" a\xe2\x82").0,
            Piece {
                text: "a".into(),
                tokens: vec![]
            }
        );
        let (piece, _) = assembler.push(2, b"\xac!");
        assert_eq!(
            piece,
            Piece {
                text: "€!".into(),
                tokens: vec![1, 2]
            }
        );
        assert_eq!(run(&[b"x\xe2\x82"], &[]).0, "x\u{fffd}");
        assert_eq!(run(&[b"\xff\xfeok"], &[]).0, "\u{fffd}\u{fffd}ok");
    }

    #[test]
    fn a_stop_sequence_across_tokens_is_never_sent() {
        let (text, tokens, stopped) = run(
            &[b" one", b" tw", b"o [/", b"IN", b"ST] more"],
            &["[/INST]"],
        );
        assert_eq!((text.as_str(), stopped), ("one two ", true));
        assert_eq!(
            tokens,
            [0, 1],
            "the third token is half of the stop sequence"
        );
        assert_eq!(run(&[b"a [/", b"IX"], &["[/INST]"]).0, "a [/IX");
    }

    #[test]
    fn only_the_first_space_goes() {
        assert_eq!(run(&[b" ", b" a", b" b"], &[]).0, " a b");
        assert_eq!(run(&[b"a"], &[""]).0, "a");
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_text(text in "\\PC{0,40}", cuts in prop::collection::vec(0_usize..160, 0..8)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|&c| c <= bytes.len()).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let (got, tokens, _) = run(&pieces, &["\u{1}"]);
            prop_assert_eq!(got.as_str(), text.strip_prefix(' ').unwrap_or(&text));
            prop_assert_eq!(tokens.len(), pieces.len());
        }
    }
}
