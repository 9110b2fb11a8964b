//! What `/v1` is told about an answer's form and tokens: `response_format` and `logit_bias`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::chat::Format;
use crate::error::Error;
use crate::types::Token;

/// OpenAI's `response_format`, and the schema beside `json_object` that llama.cpp's clients send.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a JSON object")]
pub struct ResponseFormat {
    r#type: String,
    json_schema: Option<JsonSchema>,
    schema: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "a JSON object")]
struct JsonSchema {
    schema: Option<Box<RawValue>>,
}

impl ResponseFormat {
    pub fn format(self) -> Result<Format, Error> {
        const KINDS: &str = "\"text\", \"json_object\" or \"json_schema\"";
        let described = |field, schema: Box<RawValue>| Format::Schema {
            field,
            text: Arc::from(Box::<str>::from(schema)),
        };
        match self.r#type.as_str() {
            "text" => Ok(Format::Text),
            "json_object" => Ok(self.schema.map_or(Format::Json, |schema| {
                described("response_format.schema", schema)
            })),
            "json_schema" => {
                let schema = self.json_schema.and_then(|named| named.schema);
                let field = "response_format.json_schema.schema";
                schema
                    .map(|schema| described(field, schema))
                    .ok_or_else(|| Error::invalid(field, "found none, expected a JSON schema"))
            }
            found => Err(Error::invalid(
                "response_format.type",
                format!("found {found:?}, expected {KINDS}"),
            )),
        }
    }
}

/// Token ids, which JSON writes as names, and what is added to their logits.
pub type LogitBias = BTreeMap<String, f32>;

pub fn biases(told: LogitBias) -> Result<Vec<(Token, f32)>, Error> {
    told.into_iter()
        .map(|(token, bias)| match token.parse() {
            Ok(token) => Ok((token, bias)),
            Err(_) => Err(Error::invalid(
                "logit_bias",
                format!("found the name {token:?}, expected a token's number"),
            )),
        })
        .collect()
}
