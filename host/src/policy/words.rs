//! Words of files and guests, before an operator reads them in a log or on a terminal: short enough,
//! and without characters that would move the cursor or forge a line.

use std::borrow::Cow;

/// The beginning of `text`, at most `bytes` long, cut at a character.
pub(super) fn head(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// What ends a text that was cut.
const CUT: &str = " [...]";

/// The beginning of `text` in one line of about `bytes`: what is cut off and what would control a
/// terminal shows as marks.
pub(super) fn plain(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes && !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len().min(bytes) + CUT.len());
    for c in text.chars() {
        let before = out.len();
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
        if out.len() > bytes {
            out.truncate(before);
            out.push_str(CUT);
            break;
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut_and_what_controls_is_shown() {
        assert!(matches!(
            plain("caf\u{e9} [x]", 20),
            Cow::Borrowed("caf\u{e9} [x]")
        ));
        assert_eq!(plain("caf\u{e9}", 4), "caf [...]");
        assert_eq!(plain("one\ntwo\x1b[2J\0", 40), "one two\\u{1b}[2J\\u{0}");
    }
}
