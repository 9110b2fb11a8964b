//! The configuration as it may be shown to whoever operates the gateway: without what lets somebody
//! in.

use serde_json::Value;

use super::Config;
use crate::types::wording::without_login;

const HIDDEN: &str = "(hidden)";
/// What the settings of a policy call a secret: they are the policy's own, and nobody else knows
/// which of them is one.
const SECRETS: [&str; 4] = ["key", "token", "secret", "password"];

impl Config {
    /// All keys with their values as JSON. Passwords, keys and the digests that they are known by
    /// are hidden.
    pub fn shown(&self) -> Value {
        // Through text, because a Value would make 0.699999988 of a short float's 0.7. Whatever was
        // read from TOML has a JSON form.
        let text = serde_json::to_string(self).unwrap_or_default();
        let mut all: Value = serde_json::from_str(&text).unwrap_or_default();
        if let Some(token) = all.pointer_mut("/server/admin_token") {
            hide(token);
        }
        let keys = all
            .pointer_mut("/server/keys")
            .and_then(Value::as_array_mut);
        for key in keys.into_iter().flatten() {
            hide(&mut key["sha256"]);
        }
        let policies = all.get_mut("policies").and_then(Value::as_object_mut);
        for hook in policies.into_iter().flat_map(|all| all.values_mut()) {
            if let Some(config) = hook.get_mut("config") {
                hide_secrets(config, false);
            }
        }
        all
    }
}

/// An empty text shows that there is nothing to hide.
fn hide(value: &mut Value) {
    if value.as_str().is_some_and(|text| !text.is_empty()) {
        *value = HIDDEN.into();
    }
}

fn hide_secrets(value: &mut Value, secret: bool) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let name = name.to_lowercase();
                let named = SECRETS.iter().any(|word| name.contains(word));
                hide_secrets(inner, secret || named);
            }
        }
        Value::Array(items) => {
            for inner in items {
                hide_secrets(inner, secret);
            }
        }
        Value::String(_) if secret => hide(value),
        Value::String(text) => *text = without_login(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_shown_but_what_lets_somebody_in() {
        let text = r#"
            [server]
            admin_token = "canary-admin"
            keys = [{ tenant = "clinic", sha256 = "canary-digest" }]
            [engine]
            upstreams = [{ url = "http://me:canary-login@host/v1", key = "canary-key" }]
            [policies.guard.config]
            words = ["a"]
            site = "http://me:canary-site@host"
            api = { ApiKey = "canary-policy", tokens = 5 }
        "#;
        let config: Config = toml::from_str(text).unwrap();
        let shown = config.shown();
        let written = shown.to_string();
        assert!(!written.contains("canary"), "{written}");
        assert_eq!(shown["server"]["admin_token"], HIDDEN);
        assert_eq!(shown["server"]["keys"][0]["tenant"], "clinic");
        assert_eq!(shown["engine"]["upstreams"][0]["url"], "http://…@host/v1");
        let guard = &shown["policies"]["guard"]["config"];
        assert_eq!(guard["words"][0], "a");
        assert_eq!(guard["api"]["tokens"], 5);
        assert_eq!(shown["engine"]["temperature"].to_string(), "0.7");
        assert_eq!(Config::default().shown()["server"]["admin_token"], "");
    }
}
