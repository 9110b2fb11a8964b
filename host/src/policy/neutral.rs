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
    let find = |string: &S, from: usize| match string.as_ref() {
        "" => None,
        string => Some(from + text[from..].find(string)?),
    };
    if reserved.iter().all(|string| find(string, 0).is_none()) {
        return Cow::Borrowed(text);
    }
    let breaker = breaker(reserved);
    let mut out = String::with_capacity(text.len() + 8);
    let mut copied = 0;
    // Where each string comes next. It is looked for again only when it was passed, or a text full
    // of one string would be searched to its end for the others at each of them.
    let mut next: Vec<Option<usize>> = reserved.iter().map(|string| find(string, 0)).collect();
    while let Some(at) = next.iter().flatten().min().copied() {
        let head = text[at..].chars().next().map_or(1, char::len_utf8);
        let single = reserved.iter().any(|s| s.as_ref() == &text[at..at + head]);
        out.push_str(&text[copied..if single { at } else { at + head }]);
        out.push(breaker);
        copied = at + head;
        for (next, string) in next.iter_mut().zip(reserved) {
            if next.is_some_and(|at| at < copied) {
                *next = find(string, copied);
            }
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

fn breaker<S: AsRef<str>>(reserved: &[S]) -> char {
    let free = |c: &char| !reserved.iter().any(|s| s.as_ref().contains(*c));
    BREAKERS
        .into_iter()
        .find(free)
        .unwrap_or(char::REPLACEMENT_CHARACTER)
}
