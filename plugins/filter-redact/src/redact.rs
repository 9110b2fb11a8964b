//! The search itself. It reads from the front and decides about a word or a number only when it
//! has seen the character after it, so that borders of chunks cannot matter; until then the tail
//! is held back.

const EMAIL: &str = "[e-mail address removed]";
const PHONE: &str = "[phone number removed]";
const NUMBER: &str = "[number removed]";
/// Longer than any address (RFC 5321, 4.5.3.1) or number: what does not end within this many
/// bytes is neither, and is held back no longer.
const LONGEST: usize = 320;

#[derive(Clone, Copy)]
pub struct Rules {
    pub emails: bool,
    pub phones: bool,
    /// 0 for none.
    pub min_digits: usize,
}

pub struct Redactor {
    rules: Rules,
    /// Not decided yet.
    held: String,
}

/// What stands at the beginning of a text, and how many bytes of it.
enum Found {
    Plain(usize),
    Secret(usize, &'static str),
    /// The next chunk decides.
    Open,
}

impl Redactor {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            held: String::new(),
        }
    }

    /// What of the text so far can be shown.
    pub fn push(&mut self, chunk: &str) -> String {
        self.held.push_str(chunk);
        self.decide(false)
    }

    /// The rest.
    pub fn finish(&mut self) -> String {
        self.decide(true)
    }

    fn decide(&mut self, ended: bool) -> String {
        let mut shown = String::with_capacity(self.held.len());
        let mut rest = self.held.as_str();
        while !rest.is_empty() {
            let length = match self.rules.look(rest, ended) {
                Found::Plain(length) => {
                    shown.push_str(&rest[..length]);
                    length
                }
                Found::Secret(length, placeholder) => {
                    shown.push_str(placeholder);
                    length
                }
                Found::Open => break,
            };
            rest = &rest[length..];
        }
        self.held = rest.to_owned();
        shown
    }
}

impl Rules {
    fn look(&self, rest: &str, ended: bool) -> Found {
        let start = |c: char| in_word(c) || c == '(';
        match rest.find(start) {
            Some(0) => {}
            skipped => return Found::Plain(skipped.unwrap_or(rest.len())),
        }
        if self.emails {
            match email(rest, ended) {
                Found::Plain(_) => {}
                found => return found,
            }
        }
        if rest.starts_with(|c: char| c.is_ascii_digit() || "+(".contains(c)) {
            return self.number(rest, ended);
        }
        // A number may begin inside a word: "No.5551234567".
        let end = |c: char| !in_word(c) || c.is_ascii_digit() || c == '+';
        Found::Plain(rest.find(end).unwrap_or(rest.len()))
    }

    /// `rest` begins with a digit, '+' or '('.
    fn number(&self, rest: &str, ended: bool) -> Found {
        // The digit groups as byte ranges; one or two separators may stand between them.
        let mut groups: Vec<(usize, usize)> = Vec::new();
        let mut gap = String::new();
        let mut open = !ended && rest.len() < LONGEST;
        for (at, c) in rest.char_indices() {
            match groups.last_mut() {
                _ if at >= LONGEST => {
                    open = false;
                    break;
                }
                Some((_, end)) if c.is_ascii_digit() && gap.is_empty() => *end = at + 1,
                _ if c.is_ascii_digit() => {
                    groups.push((at, at + 1));
                    gap.clear();
                }
                _ if at == 0 => {}
                _ => {
                    gap.push(c);
                    if !separates(&gap) {
                        open = false;
                        break;
                    }
                }
            }
        }
        if open && (self.phones || self.min_digits > 0) {
            return Found::Open;
        }
        let Some(&(_, first_end)) = groups.first() else {
            return Found::Plain(1);
        };
        let sizes: Vec<usize> = groups.iter().map(|(start, end)| end - start).collect();
        for count in (1..=groups.len()).rev() {
            let end = groups[count - 1].1;
            if self.phones && is_phone(rest, &sizes[..count]) {
                return Found::Secret(end, PHONE);
            }
            if self.min_digits > 0 && is_card(&sizes[..count]) {
                return Found::Secret(end, NUMBER);
            }
        }
        if self.min_digits > 0 && sizes[0] >= self.min_digits {
            return Found::Secret(first_end, NUMBER);
        }
        Found::Plain(groups.get(1).map_or(first_end, |next| next.0))
    }
}

/// `rest` begins where a word may; `Plain` means that it is no address.
fn email(rest: &str, ended: bool) -> Found {
    let run = |from: usize, belongs: fn(char) -> bool| {
        let text = &rest[from..];
        let outside = text
            .char_indices()
            .find(|(at, c)| !belongs(*c) || *at >= LONGEST);
        let length = outside.map_or(text.len(), |(at, _)| at);
        (
            from + length,
            outside.is_none() && !ended && length < LONGEST,
        )
    };
    let (name_end, open) = run(0, in_word);
    if open {
        return Found::Open;
    }
    if name_end == 0 || !rest[name_end..].starts_with('@') {
        return Found::Plain(name_end);
    }
    let (domain_end, open) = run(name_end + 1, |c| c.is_alphanumeric() || ".-".contains(c));
    if open {
        return Found::Open;
    }
    let domain = rest[name_end + 1..domain_end].trim_end_matches(['.', '-']);
    match domain.rsplit_once('.') {
        Some((host, top)) if !host.is_empty() && top.chars().all(char::is_alphabetic) => {
            Found::Secret(name_end + 1 + domain.len(), EMAIL)
        }
        _ => Found::Plain(name_end),
    }
}

/// The characters of a word or of an address before its '@'. Scripts that put no spaces between
/// words are left out: whole sentences would be held back.
fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._%+-".contains(c) || (c < '\u{250}' && c.is_alphabetic())
}

/// Whether a number may go on after this gap: one separator, or a parenthesis and one.
fn separates(gap: &str) -> bool {
    let known = gap
        .chars()
        .all(|c| " .-()\u{a0}\u{202f}\u{2011}\u{2013}".contains(c));
    known && gap.chars().count() <= if gap.contains(['(', ')']) { 2 } else { 1 }
}

/// Two groups are often a range ("150000-450000"), and a last group of two a time or a dose, so
/// a number without a sign of being one must look like one throughout.
fn is_phone(text: &str, groups: &[usize]) -> bool {
    let digits: usize = groups.iter().sum();
    let last = groups.last().copied().unwrap_or(0);
    match text.chars().next() {
        Some('+') => (7..=15).contains(&digits),
        Some('(') => (9..=15).contains(&digits) && groups.len() > 1,
        Some('0') if groups[0] > 1 => (9..=15).contains(&digits) && groups.len() > 1,
        _ => {
            (9..=15).contains(&digits)
                && groups.len() > 2
                && last > 2
                && groups.iter().all(|g| *g > 1)
        }
    }
}

/// A bank card in groups.
fn is_card(groups: &[usize]) -> bool {
    let digits: usize = groups.iter().sum();
    (13..=19).contains(&digits) && groups.len() > 2 && groups.iter().all(|g| *g > 2)
}
