//! Keeps what people write out of the operator's log, whatever a policy says there: the contract
//! asks policies not to quote, and this sees to it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::words::{head, plain};

/// Stands in a log line's or an error's place that repeats what its policy was asked about.
pub(super) const WITHHELD: &str = "(withheld: it repeats what somebody wrote or was answered)";

/// A run of so many bytes is a quotation: shorter ones are in every language's common words.
const RUN: usize = 12;
/// A whole word of so many bytes may name an illness, and so many digits somebody's telephone.
const WORD: usize = 8;
const DIGITS: usize = 5;

/// What a policy has read of people's words.
#[derive(Default)]
pub(super) struct Heard {
    /// By their addresses, which stay theirs as long as they are kept.
    texts: HashMap<usize, Arc<str>>,
    /// An answer that came in pieces.
    pieces: String,
    /// What was asked of the request's attributes.
    attributes: Vec<String>,
}

impl Heard {
    pub(super) fn attribute(&mut self, value: &str) {
        if !self.attributes.iter().any(|known| known == value) {
            self.attributes.push(value.to_owned());
        }
    }

    pub(super) fn text(&mut self, text: &Arc<str>) {
        // A policy reads a message often piece by piece.
        let address = Arc::as_ptr(text).addr();
        let keep = || Arc::clone(text);
        self.texts.entry(address).or_insert_with(keep);
    }

    /// Whether a single word may be out of what was read: it stands there, or has the digits of a
    /// number that may.
    pub(super) fn knows(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        let digits = word.chars().filter(char::is_ascii_digit).count();
        digits >= DIGITS || self.all().any(|text| text.to_lowercase().contains(&word))
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        let texts = self.texts.values().map(|text| &**text);
        let attributes = self.attributes.iter().map(String::as_str);
        texts.chain(attributes).chain([self.pieces.as_str()])
    }

    pub(super) fn piece(&mut self, text: &str) {
        self.pieces.push_str(text);
    }

    /// What an operator reads of a line: its beginning, about `bytes` long, or what stands in its
    /// place.
    pub(super) fn told<'a>(&self, line: &'a str, bytes: usize) -> Cow<'a, str> {
        let begins = head(line, bytes);
        let said = Said::of(begins);
        match self.all().any(|text| said.quotes(text)) {
            true => WITHHELD.into(),
            false => plain(line, bytes),
        }
    }
}

/// What a line says, in the pieces by which a quotation is known.
struct Said<'a> {
    line: &'a str,
    runs: HashSet<&'a [u8]>,
    words: HashSet<String>,
    numbers: Vec<String>,
}

impl<'a> Said<'a> {
    fn of(line: &'a str) -> Self {
        Self {
            line,
            runs: line.as_bytes().windows(RUN).collect(),
            words: words(line).map(str::to_lowercase).collect(),
            numbers: numbers(line),
        }
    }

    /// Whether the line holds a run of `text`, one of its long words or numbers, or all of a text that
    /// is shorter than a run but for a word as short as "yes".
    fn quotes(&self, text: &str) -> bool {
        let whole = text.trim();
        if whole.len() < RUN && whole.len() > 3 && self.line.contains(whole) {
            return true;
        }
        let run = |run: &[u8]| self.runs.contains(run);
        let word = |word: &str| self.words.contains(&word.to_lowercase());
        (!self.runs.is_empty() && text.as_bytes().windows(RUN).any(run))
            || (!self.words.is_empty() && words(text).any(word))
            || (!self.numbers.is_empty() && holds_number(text, &self.numbers))
    }
}

/// Long enough to tell something by themselves.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphabetic())
        .filter(|word| word.len() >= WORD)
}

/// Runs of digits, however they are grouped.
fn numbers(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for c in text.chars() {
        match (c.is_numeric(), all.last_mut()) {
            (true, Some(last)) => last.push(c),
            (false, Some(last)) if !last.is_empty() && !" -./()".contains(c) => {
                all.push(String::new());
            }
            _ => {}
        }
    }
    all.retain(|number| number.len() >= DIGITS);
    all
}

fn holds_number(text: &str, wanted: &[String]) -> bool {
    let there = numbers(text);
    wanted
        .iter()
        .any(|wanted| there.iter().any(|number| number.contains(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_what_was_read_is_a_quotation() {
        let mut heard = Heard::default();
        heard.text(&"My doctor says that it is psoriasis, what now?".into());
        heard.text(&"Is it HIV".into());
        heard.piece("You should take ");
        heard.piece("methotrexate.");
        for line in [
            "cannot trim \"it is psoriasis, what\"",
            "Is it HIV is too short",
            "stopped at \"take methotrexate\"",
        ] {
            assert_eq!(heard.told(line, 500), WITHHELD, "{line}");
        }
        for line in ["message 7 has 900 tokens, 512 fit", "what now?"] {
            assert_eq!(heard.told(line, 500), line);
        }
        heard.piece(" Call (555) 123-4567.");
        for line in [
            "found PSORIASIS",
            "matched 5551234567",
            "matched 555 1234",
            "kept out: methotrexate",
        ] {
            assert_eq!(heard.told(line, 500), WITHHELD, "{line}");
        }
        assert_eq!(
            heard.told("psoriases, 12 of 5120 tokens", 500),
            "psoriases, 12 of 5120 tokens"
        );
        assert_eq!(Heard::default().told("anything", 500), "anything");
    }

    #[test]
    fn a_word_that_was_read_is_known() {
        let mut heard = Heard::default();
        heard.piece("You should take Metho");
        heard.piece("trexate, card 4111 1111 1111 1111.");
        for word in ["methotrexate", "take", "4111111111111111", "4111-1111"] {
            assert!(heard.knows(word), "{word}");
        }
        for word in ["phone", "rule-12"] {
            assert!(!heard.knows(word), "{word}");
        }
    }
}
