//! The operator's table, read by `config.schema.json`: that file alone holds keys, defaults and
//! ranges. It knows whole numbers and texts.

use serde_json::{Map, Value};

pub struct Settings(Map<String, Value>);

#[allow(dead_code, reason = "a policy reads what it has")]
impl Settings {
    /// The error is one sentence that names the key, what was found and what is expected.
    pub fn read(schema: &str, config: &str) -> Result<Self, String> {
        let schema: Value = serde_json::from_str(schema).map_err(|e| format!("schema: {e}"))?;
        let Ok(Value::Object(mut table)) = serde_json::from_str(config) else {
            return Err("config: expected a JSON object".into());
        };
        let Some(keys) = schema["properties"].as_object() else {
            return Err("schema: properties is missing".into());
        };
        if let Some(unknown) = table.keys().find(|key| !keys.contains_key(*key)) {
            let known: Vec<_> = keys.keys().map(|key| format!("{key:?}")).collect();
            let known = known.join(", ");
            return Err(format!(
                "config.{unknown}: unknown key, expected one of {known}"
            ));
        }
        for (key, rules) in keys {
            let value = table.entry(key).or_insert_with(|| rules["default"].clone());
            check(rules, value).map_err(|expected| {
                let found: String = value.to_string().chars().take(40).collect();
                format!("config.{key}: found {found}, expected {expected}")
            })?;
        }
        Ok(Self(table))
    }

    pub fn number(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or_default()
    }

    pub fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }
}

/// The error says what is expected.
fn check(rules: &Value, value: &Value) -> Result<(), String> {
    let bound = |name: &str, otherwise| rules[name].as_u64().unwrap_or(otherwise);
    if rules["type"] == "string" {
        let (least, most) = (bound("minLength", 0), bound("maxLength", u32::MAX.into()));
        match value.as_str().map(|text| text.chars().count() as u64) {
            Some(length) if (least..=most).contains(&length) => Ok(()),
            _ => Err(format!("a text of {least} to {most} characters")),
        }
    } else {
        let (least, most) = (bound("minimum", 0), bound("maximum", u32::MAX.into()));
        match value.as_u64() {
            Some(number) if (least..=most).contains(&number) => Ok(()),
            _ => Err(format!("a whole number from {least} to {most}")),
        }
    }
}
