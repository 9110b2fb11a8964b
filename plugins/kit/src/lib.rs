//! What the bundled policies share: the interface that every component exports, and the reader of
//! its configuration.
//!
//! Configuration is read by the policy's own JSON Schema: the schema is the one place
//! that holds keys, defaults and ranges, so that they cannot drift apart.
//!
//! It knows the part of JSON Schema that policies need: `type`, `properties`, `required`,
//! `items`, `enum`, `minimum`, `maximum`, `maxLength`, `default`. Keys that the schema does not
//! name are errors.

#[cfg(target_family = "wasm")]
mod heap;

use serde_json::{Map, Value};

/// What `policy!` makes of the operator's table.
pub trait Configured: Sized {
    /// JSON Schema of the table.
    const SCHEMA: &'static str;
    /// The error is one sentence that names the key.
    fn new(json: &str) -> Result<Self, String>;
    /// Tries the configured policy on samples. Called on every activation.
    fn self_test(&self) -> Result<(), String>;
}

/// Exports the interface `policy` for the type `config`, and adds what hooks are written with:
/// `Plugin`, which implements them, and `config()`. It goes below `wit_bindgen::generate!`.
#[macro_export]
macro_rules! policy {
    (config: $config:ty, summary: $summary:literal) => {
        struct Plugin;
        export!(Plugin);

        static CONFIG: std::sync::OnceLock<$config> = std::sync::OnceLock::new();

        fn config() -> Result<&'static $config, String> {
            CONFIG
                .get()
                .ok_or_else(|| "configure was not called".into())
        }

        impl exports::stent::policy::policy::Guest for Plugin {
            fn describe() -> exports::stent::policy::policy::Descriptor {
                exports::stent::policy::policy::Descriptor {
                    name: env!("CARGO_PKG_NAME").into(),
                    version: env!("CARGO_PKG_VERSION").into(),
                    summary: $summary.into(),
                    config_schema: Some(<$config as $crate::Configured>::SCHEMA.into()),
                }
            }

            fn configure(json: String) -> Result<(), String> {
                let config = <$config as $crate::Configured>::new(&json)?;
                CONFIG
                    .set(config)
                    .map_err(|_| "configure was called twice".into())
            }

            fn self_test() -> Result<(), String> {
                $crate::Configured::self_test(config()?)
            }
        }
    };
}

/// A configuration that fits its schema, defaults filled in. Asking for a key that the schema
/// does not have, or for another type, gives that type's zero.
#[derive(Debug, PartialEq)]
pub struct Settings(Value);

impl Settings {
    /// `config` is the operator's table as JSON. The error is one sentence that names the key,
    /// what was found and what is expected.
    pub fn read(schema: &str, config: &str) -> Result<Self, String> {
        let schema = parse("config schema", schema)?;
        let mut config = parse("config", config)?;
        check("config", &schema, &mut config)?;
        Ok(Self(config))
    }

    pub fn number(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or_default()
    }

    pub fn flag(&self, key: &str) -> bool {
        self.0[key].as_bool().unwrap_or_default()
    }

    pub fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    pub fn texts(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0[key]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }

    pub fn tables(&self, key: &str) -> impl Iterator<Item = Settings> {
        self.0[key]
            .as_array()
            .into_iter()
            .flatten()
            .cloned()
            .map(Settings)
    }
}

fn parse(what: &str, json: &str) -> Result<Value, String> {
    serde_json::from_str(json).map_err(|e| format!("{what} is not JSON: {e}"))
}

fn check(path: &str, schema: &Value, value: &mut Value) -> Result<(), String> {
    let wrong = |value: &Value, expected: &str| {
        Err(format!(
            "{path}: found {}, expected {expected}",
            brief(value)
        ))
    };
    match (schema["type"].as_str(), &mut *value) {
        (Some("object"), Value::Object(table)) => check_table(path, schema, table),
        (Some("array"), Value::Array(items)) => items
            .iter_mut()
            .enumerate()
            .try_for_each(|(i, item)| check(&format!("{path}[{i}]"), &schema["items"], item)),
        (Some("boolean"), Value::Bool(_)) => Ok(()),
        (Some("integer"), found) => {
            let least = schema["minimum"].as_u64().unwrap_or(0);
            let most = schema["maximum"].as_u64().unwrap_or(u64::MAX);
            match found.as_u64() {
                Some(n) if (least..=most).contains(&n) => Ok(()),
                _ => wrong(value, &format!("a whole number from {least} to {most}")),
            }
        }
        (Some("string"), Value::String(text)) => {
            let most = schema["maxLength"].as_u64().unwrap_or(u64::MAX);
            let length = text.chars().count() as u64;
            match schema["enum"].as_array() {
                Some(choices) if !choices.contains(value) => wrong(value, &list(choices)),
                _ if length > most => Err(format!(
                    "{path}: found {length} characters, expected at most {most}"
                )),
                _ => Ok(()),
            }
        }
        (kind, _) => wrong(
            value,
            &format!("a value of type {}", kind.unwrap_or("unknown")),
        ),
    }
}

fn check_table(path: &str, schema: &Value, table: &mut Map<String, Value>) -> Result<(), String> {
    let no_keys = Map::new();
    let keys = schema["properties"].as_object().unwrap_or(&no_keys);
    if let Some(unknown) = table.keys().find(|key| !keys.contains_key(*key)) {
        let known: Vec<Value> = keys.keys().map(|key| key.as_str().into()).collect();
        return Err(format!(
            "{path}.{unknown}: unknown key, expected {}",
            list(&known)
        ));
    }
    for (key, schema) in keys {
        if !table.contains_key(key) && !schema["default"].is_null() {
            table.insert(key.clone(), schema["default"].clone());
        }
        if let Some(value) = table.get_mut(key) {
            check(&format!("{path}.{key}"), schema, value)?;
        }
    }
    let required = schema["required"].as_array().into_iter().flatten();
    match required
        .filter_map(Value::as_str)
        .find(|key| !table.contains_key(*key))
    {
        Some(missing) => Err(format!("{path}.{missing}: missing")),
        None => Ok(()),
    }
}

/// Enough of a value to recognise it in a log line.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn list(values: &[Value]) -> String {
    let names: Vec<String> = values.iter().map(Value::to_string).collect();
    match names.as_slice() {
        [] => "no keys".into(),
        [one] => one.clone(),
        many => format!("one of {}", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{"type": "object", "properties": {
        "count": {"type": "integer", "minimum": 1, "maximum": 9, "default": 3},
        "scope": {"type": "string", "enum": ["session", "tenant"], "default": "session"},
        "name": {"type": "string", "maxLength": 4},
        "on": {"type": "boolean", "default": true},
        "words": {"type": "array", "items": {"type": "string"}, "default": ["a", "b"]},
        "pairs": {"type": "array", "default": [], "items": {"type": "object", "required": ["q"],
            "properties": {"q": {"type": "string"}}}}}}"#;

    fn error(config: &str) -> String {
        Settings::read(SCHEMA, config).expect_err(config)
    }

    #[test]
    fn defaults_come_from_the_schema() {
        let settings = Settings::read(SCHEMA, "{}").expect("empty is valid");
        assert_eq!(settings.number("count"), 3);
        assert_eq!(settings.text("scope"), "session");
        assert_eq!(settings.text("name"), "");
        assert!(settings.flag("on"));
        assert_eq!(settings.texts("words").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(settings.tables("pairs").count(), 0);
    }

    #[test]
    fn values_are_read() {
        let config = r#"{"count": 9, "on": false, "words": [], "pairs": [{"q": "x"}]}"#;
        let settings = Settings::read(SCHEMA, config).expect("valid");
        assert_eq!((settings.number("count"), settings.flag("on")), (9, false));
        assert_eq!(settings.texts("words").count(), 0);
        assert_eq!(
            settings
                .tables("pairs")
                .map(|p| p.text("q").to_owned())
                .last(),
            Some("x".into())
        );
    }

    #[test]
    fn errors_name_key_found_and_expected() {
        let cases = [
            (
                r#"{"coutn": 1}"#,
                "config.coutn: unknown key, expected one of \"count\"",
            ),
            (
                r#"{"count": 0}"#,
                "config.count: found 0, expected a whole number from 1 to 9",
            ),
            (
                r#"{"count": -1}"#,
                "config.count: found -1, expected a whole number",
            ),
            (
                r#"{"count": 1.5}"#,
                "config.count: found 1.5, expected a whole number",
            ),
            (
                r#"{"count": "1"}"#,
                "config.count: found \"1\", expected a whole number",
            ),
            (
                r#"{"scope": "all"}"#,
                r#"config.scope: found "all", expected one of "session", "tenant""#,
            ),
            (
                r#"{"name": "äöüßé"}"#,
                "config.name: found 5 characters, expected at most 4",
            ),
            (
                r#"{"on": 1}"#,
                "config.on: found 1, expected a value of type boolean",
            ),
            (
                r#"{"words": ["a", 1]}"#,
                "config.words[1]: found 1, expected a value of type string",
            ),
            (r#"{"pairs": [{}]}"#, "config.pairs[0].q: missing"),
            (
                r#"{"pairs": [{"a": 1}]}"#,
                "config.pairs[0].a: unknown key, expected \"q\"",
            ),
            ("[]", "config: found [], expected a value of type object"),
            ("{", "config is not JSON"),
        ];
        for (config, expected) in cases {
            assert!(
                error(config).starts_with(expected),
                "{config}: {}",
                error(config)
            );
        }
    }
}
