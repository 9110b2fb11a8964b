//! serde's words for people: "found -1, expected a whole number, 1 or more" where serde says
//! "invalid value: integer `-1`, expected a nonzero u32".

/// Longest found text that is repeated.
const SHOWN: usize = 60;

/// What was found and expected, without Rust's names. `object` is what a struct is called in this
/// format: a JSON object, a table. Other messages stay as they are.
pub fn plain(message: &str, object: &str) -> String {
    let mismatch = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "));
    // What was found comes from outside and may hold anything, so the last "expected" counts.
    let Some((found, expected)) = mismatch.and_then(|text| text.rsplit_once(", expected ")) else {
        return message.to_owned();
    };
    let found = found_in_words(found, object);
    let expected = expected_in_words(expected, &found, object);
    format!("found {found}, expected {expected}")
}

/// The text without who logs in at an address within it: a password is not repeated.
pub fn without_login(text: &str) -> String {
    let (mut shown, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("://") {
        let ends = |c: char| c.is_whitespace() || "\"'`,".contains(c);
        let (address, more) = after.split_at(after.find(ends).unwrap_or(after.len()));
        let host = match address.rsplit_once('@') {
            Some((_, host)) => format!("…@{host}"),
            None => address.to_owned(),
        };
        shown += &format!("{before}://{host}");
        rest = more;
    }
    shown + rest
}

/// `#[serde(serialize_with = "wording::hide_login")]`: an address that may hold a password.
///
/// # Errors
/// The serialiser's own.
pub fn hide_login<S: serde::Serializer>(text: &str, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&without_login(text))
}

fn found_in_words(found: &str, object: &str) -> String {
    let number = ["integer ", "floating point ", "boolean "]
        .iter()
        .find_map(|kind| found.strip_prefix(kind));
    if let Some(number) = number {
        return number.trim_matches('`').to_owned();
    }
    if let Some(text) = found.strip_prefix("string ") {
        let end = text.floor_char_boundary(SHOWN);
        return match text.get(..end) {
            Some(start) if start.len() < text.len() => format!("the text {start}...\""),
            _ => format!("the text {text}"),
        };
    }
    match found {
        "unit value" | "null" => "null".into(),
        "sequence" => "a list".into(),
        "map" => object.into(),
        other => other.to_owned(),
    }
}

fn expected_in_words(expected: &str, found: &str, object: &str) -> String {
    let whole = |least: &str, most: u64| match found.parse::<u64>() {
        Ok(found) if found > most => format!("a whole number, {least} to {most}"),
        _ => format!("a whole number, {least} or more"),
    };
    match expected {
        "a nonzero u32" => whole("1", u64::from(u32::MAX)),
        "u8" => whole("0", u64::from(u8::MAX)),
        "u16" => whole("0", u64::from(u16::MAX)),
        "u32" => whole("0", u64::from(u32::MAX)),
        "u64" | "usize" => whole("0", i64::MAX as u64),
        "i32" | "i64" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "path string" => "a text".into(),
        "a sequence" => "a list".into(),
        "a map" => object.into(),
        other if other.starts_with("struct ") => object.into(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rusts_names_are_told_in_plain_words() {
        for (told, words) in [
            (
                "invalid value: integer `-1`, expected a nonzero u32",
                "found -1, expected a whole number, 1 or more",
            ),
            (
                "invalid value: integer `4294967296`, expected u32",
                "found 4294967296, expected a whole number, 0 to 4294967295",
            ),
            (
                "invalid type: string \"a, expected b\", expected f32",
                "found the text \"a, expected b\", expected a number",
            ),
            (
                "invalid type: null, expected struct Request",
                "found null, expected a JSON object",
            ),
            (
                "invalid type: sequence, expected a boolean",
                "found a list, expected true or false",
            ),
            ("missing field `message`", "missing field `message`"),
        ] {
            assert_eq!(plain(told, "a JSON object"), words);
        }
        let long = format!("invalid type: string {:?}, expected u32", "ü".repeat(500));
        assert!(plain(&long, "a table").len() < 130);
    }

    #[test]
    fn who_logs_in_is_left_out_and_all_else_stays() {
        for (text, shown) in [
            (
                "--set a.b=redis://me:hunter2@h:1/0",
                "--set a.b=redis://…@h:1/0",
            ),
            (
                "s = \"redis://:p@ss/w@h\" and http://x/y@z",
                "s = \"redis://…@h\" and http://…@z",
            ),
            ("http://a, redis://b", "http://a, redis://b"),
            ("a@b", "a@b"),
        ] {
            assert_eq!(without_login(text), shown);
        }
    }
}
