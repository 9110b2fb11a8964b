//! The form that an answer must have: any text, any JSON object, or JSON that a schema describes.

use std::sync::Arc;

use serde_json::Value;

use crate::engine;
use crate::error::Error;

/// What the client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    /// One JSON object, whatever is in it.
    Json,
    /// JSON of this schema. Its own text is kept: the answer has the schema's order of properties.
    Schema { field: &'static str, text: Arc<str> },
}

/// What the grammar's maker is trusted with: it is recursive, and matches texts with a recursive
/// matcher. Each limit is far below what it breaks at.
const MAX_BYTES: usize = 64 << 10;
const MAX_DEPTH: usize = 32;
const MAX_TEXT: usize = 1024;

impl Format {
    /// The grammar that holds the answer to its form; `None` for plain text.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a schema that cannot be followed.
    pub fn grammar(&self) -> Result<Option<Arc<str>>, Error> {
        match self {
            Self::Text => Ok(None),
            Self::Json => made(self.field(), "{\"type\":\"object\"}").map(Some),
            Self::Schema { field, text } => {
                check(field, text)?;
                made(field, text).map(Some)
            }
        }
    }

    /// The body's field that an error is about.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Text | Self::Json => "response_format",
            Self::Schema { field, .. } => field,
        }
    }
}

fn made(field: &str, schema: &str) -> Result<Arc<str>, Error> {
    let grammar = engine::grammar_from_schema(schema).map_err(|reason| {
        Error::invalid(
            field,
            format!(
                "this schema cannot be followed ({reason}); expected a JSON schema without remote \
                 references and look-around patterns"
            ),
        )
    })?;
    Ok(grammar.into())
}

fn check(field: &str, text: &str) -> Result<(), Error> {
    if text.len() > MAX_BYTES {
        let found = text.len();
        return Err(Error::invalid(
            field,
            format!("found {found} bytes, expected at most {MAX_BYTES}"),
        ));
    }
    let schema: Value = serde_json::from_str(text)
        .map_err(|_| Error::invalid(field, "nested too deeply to be read"))?;
    if !schema.is_object() {
        return Err(Error::invalid(
            field,
            "found no JSON object, expected a JSON schema",
        ));
    }
    within(&schema, 1).map_err(|problem| Error::invalid(field, problem))
}

fn within(value: &Value, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!(
            "nested more than {MAX_DEPTH} deep, expected a flatter schema"
        ));
    }
    let short = |text: &str| match text.len() {
        len if len > MAX_TEXT => Err(format!(
            "found a text of {len} bytes in it, expected at most {MAX_TEXT}"
        )),
        _ => Ok(()),
    };
    match value {
        Value::String(text) => short(text),
        Value::Array(items) => items.iter().try_for_each(|item| within(item, depth + 1)),
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
            short(name)?;
            within(value, depth + 1)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let format = Format::Schema {
            field: "schema",
            text: text.into(),
        };
        format.grammar().unwrap_err().to_string()
    }

    #[test]
    fn a_schema_that_cannot_be_followed_is_named() {
        assert!(refused("[]").starts_with("schema: found no JSON object"));
        let deep = format!("{}{}", "{\"a\":".repeat(40) + "1", "}".repeat(40));
        assert!(refused(&deep).contains("more than 32 deep"));
        let long = format!("{{\"title\":\"{}\"}}", "!".repeat(2000));
        assert!(refused(&long).contains("a text of 2000 bytes"));
        let large = format!("{{\"a\":[{}1]}}", "1,".repeat(40_000));
        assert!(refused(&large).contains("expected at most 65536"));
        let said = refused("{\"$ref\":\"https://example.com/schema.json\"}");
        assert!(
            said.contains("cannot be followed") && said.contains("remote references"),
            "{said}"
        );
        assert!(refused("{\"type\":\"colour\"}").contains("cannot be followed"));
    }

    #[test]
    fn the_largest_schema_allowed_is_made_into_a_grammar() {
        let name = "!".repeat(MAX_TEXT);
        let nested = (0..28).fold("{\"type\":\"integer\"}".to_owned(), |inner, _| {
            format!("{{\"type\":\"array\",\"items\":{inner}}}")
        });
        let text = format!("{{\"type\":\"object\",\"properties\":{{\"{name}\":{nested}}}}}");
        let format = Format::Schema {
            field: "schema",
            text: text.into(),
        };
        assert!(format.grammar().unwrap().unwrap().contains("root ::="));
        assert!(Format::Json.grammar().unwrap().is_some());
        assert_eq!(Format::Text.grammar().unwrap(), None);
    }
}
