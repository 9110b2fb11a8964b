//! Making layout strings harmless in text that came from outside.
//!
//! In Mistral's vocabulary `[INST]` is not a control token but four ordinary pieces, so a typed
//! `[/INST]` would end the turn. A tokenizer's pieces spell exactly the text they came from;
//! hence a text without the string has no token sequence that spells it, whatever the vocabulary.

use std::borrow::Cow;

/// Tried in order; the first that no reserved string contains keeps reserved strings apart.
const BREAKERS: [char; 4] = [' ', '\u{200b}', '\u{2060}', '\u{fffd}'];

/// Breaks each occurrence of a reserved string by one character after its first: `[INST]` becomes
/// `[ INST]`. The result contains no reserved string, so doing it again changes nothing. A string
/// of a single character is replaced.
pub fn neutralise<'t, S: AsRef<str>>(text: &'t str, reserved: &[S]) -> Cow<'t, str> {
    let Some(mut at) = first(text, 0, reserved) else {
        return Cow::Borrowed(text);
    };
    let breaker = breaker(reserved);
    let mut out = String::with_capacity(text.len() + 8);
    let mut copied = 0;
    loop {
        let head = text[at..].chars().next().map_or(1, char::len_utf8);
        let single = reserved.iter().any(|s| s.as_ref() == &text[at..at + head]);
        out.push_str(&text[copied..if single { at } else { at + head }]);
        out.push(breaker);
        copied = at + head;
        match first(text, copied, reserved) {
            Some(next) => at = next,
            None => break,
        }
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// A character to put between `left` and `right` if a reserved string would span their border.
pub(super) fn border<S: AsRef<str>>(left: &str, right: &str, reserved: &[S]) -> Option<char> {
    let spans = |s: &str| {
        s.char_indices()
            .skip(1)
            .any(|(cut, _)| left.ends_with(&s[..cut]) && right.starts_with(&s[cut..]))
    };
    reserved
        .iter()
        .any(|s| spans(s.as_ref()))
        .then(|| breaker(reserved))
}

/// Start of the leftmost reserved string at or after `from`.
fn first<S: AsRef<str>>(text: &str, from: usize, reserved: &[S]) -> Option<usize> {
    reserved
        .iter()
        .map(AsRef::as_ref)
        .filter(|s| !s.is_empty())
        .filter_map(|s| text[from..].find(s))
        .min()
        .map(|at| from + at)
}

fn breaker<S: AsRef<str>>(reserved: &[S]) -> char {
    let free = |c: &char| !reserved.iter().any(|s| s.as_ref().contains(*c));
    BREAKERS
        .into_iter()
        .find(free)
        .unwrap_or(char::REPLACEMENT_CHARACTER)
}
