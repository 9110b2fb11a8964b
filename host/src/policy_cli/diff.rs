//! What was expected and what came, so that the difference is seen at once.

use serde_json::Value;

/// Lines that show how `got` differs from `expected`.
pub fn lines(expected: &Value, got: &Value) -> Vec<String> {
    match (only_text(expected), only_text(got)) {
        (Some((kind, expected)), Some((other, got)))
            if kind == other && (expected.contains('\n') || got.contains('\n')) =>
        {
            let mut lines = vec![format!("{kind}:")];
            lines.extend(by_line(expected, got));
            lines
        }
        _ => by_character(&expected.to_string(), &got.to_string()),
    }
}

/// `{"prompt": "text"}` as its kind and text.
fn only_text(value: &Value) -> Option<(&str, &str)> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    let (kind, value) = object.iter().next()?;
    Some((kind, value.as_str()?))
}

/// Both in full, with a mark under the first character that differs.
fn by_character(expected: &str, got: &str) -> Vec<String> {
    let pairs = expected.chars().zip(got.chars());
    let same = pairs.take_while(|(a, b)| a == b).count();
    vec![
        format!("expected  {expected}"),
        format!("got       {got}"),
        format!("          {}^", " ".repeat(same)),
    ]
}

/// The lines that differ, `-` expected and `+` got, with one line around them.
fn by_line(expected: &str, got: &str) -> Vec<String> {
    let (a, b): (Vec<_>, Vec<_>) = (expected.split('\n').collect(), got.split('\n').collect());
    let before = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let behind = a.iter().rev().zip(b.iter().rev());
    let after = behind.take_while(|(a, b)| a == b).count();
    let after = after.min(a.len().min(b.len()) - before);
    let mut lines = Vec::new();
    let mut add = |mark: &str, text: &[&str]| {
        lines.extend(text.iter().map(|line| format!("  {mark} {line}")));
    };
    add(" ", &a[before.saturating_sub(1)..before]);
    add("-", &a[before..a.len() - after]);
    add("+", &b[before..b.len() - after]);
    add(" ", &a[a.len() - after..][..after.min(1)]);
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::lines;

    #[test]
    fn the_first_difference_is_marked() {
        let shown = lines(&json!({ "kept": [0, 2] }), &json!({ "kept": [0, 1, 2] }));
        assert_eq!(
            shown,
            [
                r#"expected  {"kept":[0,2]}"#,
                r#"got       {"kept":[0,1,2]}"#,
                "                     ^",
            ]
        );
    }

    #[test]
    fn of_long_texts_only_the_lines_that_differ_are_shown() {
        let (a, b) = ("1\n2\n3\n4\n5", "1\n2\nthree\n4\n5");
        let shown = lines(&json!({ "prompt": a }), &json!({ "prompt": b }));
        assert_eq!(shown, ["prompt:", "    2", "  - 3", "  + three", "    4"]);
        // What only grew at its end or lost its middle has no line twice.
        let shown = lines(
            &json!({ "prompt": "1\n1" }),
            &json!({ "prompt": "1\n1\n1" }),
        );
        assert_eq!(shown, ["prompt:", "    1", "  + 1"]);
    }
}
