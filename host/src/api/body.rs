//! Reading a JSON body, with errors that name the field.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::types::wording;

/// What a body must be.
const OBJECT: &str = "a JSON object";

/// What a body may be and take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes: usize,
    /// The key of the configuration that says so.
    pub key: &'static str,
    pub time: Duration,
}

/// Reads and checks a body.
///
/// # Errors
/// As [`bytes`], and 400 that names the field for what it holds.
pub async fn read<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    limits: Limits,
) -> Result<T, Error> {
    parse(&bytes(headers, body, limits, &["application/json"]).await?)
}

/// Reads a body whose media type is one of `media`.
///
/// # Errors
/// As [`read`], but for what is wrong within the body.
pub async fn bytes(
    headers: &HeaderMap,
    body: Body,
    limits: Limits,
    media_types: &[&'static str],
) -> Result<Bytes, Error> {
    let (limit, key) = (limits.bytes, limits.key);
    let media = headers
        .get(header::CONTENT_TYPE)
        .map_or("", |v| v.to_str().unwrap_or("?"));
    let essence = media.split(';').next().unwrap_or_default().trim();
    let expected = |media: &&str| essence.eq_ignore_ascii_case(media);
    if !media_types.iter().any(expected) {
        return Err(Error::MediaType {
            found: media.chars().take(100).collect(),
            expected: media_types.join(" or "),
        });
    }
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse().ok());
    if declared.is_some_and(|bytes: usize| bytes > limit) {
        return Err(Error::TooLarge { limit, key });
    }
    let read = tokio::time::timeout(limits.time, to_bytes(body, limit)).await;
    let read = read.map_err(|_| Error::SlowBody { limit: limits.time })?;
    read.map_err(|error| {
        let too_large = std::error::Error::source(&error)
            .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
        if too_large {
            Error::TooLarge { limit, key }
        } else {
            Error::Malformed("the body ended before it was complete".into())
        }
    })
}

/// Reads the JSON of a body.
///
/// # Errors
/// 400 that names the field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    // serde would take a list for a struct, field by field.
    if bytes
        .trim_ascii_start()
        .first()
        .is_some_and(|&byte| byte == b'[')
    {
        return Err(Error::Malformed(
            "the body is wrong: found a list, expected a JSON object".into(),
        ));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let text = inner.to_string();
        if inner.is_syntax() || inner.is_eof() {
            return Error::Malformed(format!("the body is not valid JSON: {text}"));
        }
        // Position within the body helps nobody once the field is named.
        let problem = text
            .rsplit_once(" at line ")
            .map_or(&*text, |(told, _)| told);
        let (path, problem) = (one_line(&path), one_line(&wording::plain(problem, OBJECT)));
        match field(&path, &problem) {
            Some(field) => Error::invalid(field, problem),
            None => Error::Malformed(format!("the body is wrong: {problem}")),
        }
    })?;
    json.end()
        .map_err(|e| Error::Malformed(format!("the body is not valid JSON: {e}")))?;
    Ok(value)
}

/// A field's name is the client's own and may hold anything; an answer is one line.
fn one_line(text: &str) -> String {
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// The field an error is about: its path, or the name in the words of serde.
fn field(path: &str, problem: &str) -> Option<String> {
    if path != "." && !path.ends_with('?') {
        return Some(path.to_owned());
    }
    let named = problem.starts_with("missing field") || problem.starts_with("unknown field");
    named
        .then(|| problem.split('`').nth(1).map(str::to_owned))
        .flatten()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Small {
        #[expect(dead_code, reason = "only its reading is tested")]
        message: String,
        #[expect(dead_code, reason = "only its reading is tested")]
        top_k: Option<u32>,
    }

    #[test]
    fn errors_name_the_field() {
        let error = |json: &str| parse::<Small>(json.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            error("{\"message\": 5}"),
            "message: found 5, expected a text"
        );
        assert!(error("{}").starts_with("message: missing field"));
        assert!(error("{\"mesage\":\"x\"}").starts_with("mesage: unknown field"));
        assert_eq!(
            error("{\"message\":\"x\",\"top_k\":-1}"),
            "top_k: found -1, expected a whole number, 0 or more"
        );
        assert!(
            error("{\"message\":\"x\",\"a\\nb\":1}").starts_with("a\\nb: unknown field `a\\nb`")
        );
        assert!(error("{\"message\":").starts_with("the body is not valid JSON"));
        assert!(error("{\"message\":\"x\"} more").starts_with("the body is not valid JSON"));
        for (body, found) in [
            ("[]", "a list"),
            ("null", "null"),
            ("7", "7"),
            ("\"x\"", "the text \"x\""),
        ] {
            let wrong = format!("the body is wrong: found {found}, expected a JSON object");
            assert_eq!(error(body), wrong);
        }
    }
}
