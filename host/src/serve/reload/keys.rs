//! Which keys of the configuration differ, and which of them can change while it serves.

use std::collections::BTreeMap;

use serde_json::Value;
use stent::config::Config;
use stent::policy::Hook;

/// Keys whose new value holds from the next request on.
const LIVE: [&str; 16] = [
    "engine.max_tokens",
    "engine.temperature",
    "engine.seed",
    "engine.queue",
    "server.keys",
    "server.admin_token",
    "server.cors_origins",
    "server.max_body",
    "server.body_timeout",
    "server.reader_timeout",
    "server.heartbeat",
    "server.drain",
    "server.max_rss",
    "telemetry.capture_content",
    "telemetry.traceparent",
    "log.filter",
];
/// Sections of which every key is live.
const LIVE_SECTIONS: [&str; 2] = ["server.limits.", "server.tenants."];

/// `policies.trim.config.exchanges` is about trim.
pub fn hook(key: &str) -> Option<Hook> {
    let rest = key.strip_prefix("policies.")?;
    let (name, rest) = rest.split_once('.')?;
    let config = rest == "config" || rest.starts_with("config.");
    Hook::ALL
        .into_iter()
        .find(|hook| hook.as_str() == name)
        .filter(|_| config)
}

/// Puts a key's new value in the old one's place. A tenant's name may hold dots: the section is taken
/// over as it is.
pub fn take_over(shown: &mut Value, next: &Value, key: &str) {
    let key = match in_section(key) {
        true => key.splitn(3, '.').take(2).collect::<Vec<_>>().join("."),
        false => key.to_owned(),
    };
    let Some((section, name)) = key.rsplit_once('.') else {
        return;
    };
    let section = format!("/{}", section.replace('.', "/"));
    let new = next.pointer(&section).and_then(|all| all.get(name));
    let Some(fields) = shown.pointer_mut(&section).and_then(Value::as_object_mut) else {
        return;
    };
    match new {
        Some(value) => fields.insert(name.to_owned(), value.clone()),
        None => fields.remove(name),
    };
}

/// Who may come in, and how often.
pub fn is_access(key: &str) -> bool {
    ["server.keys", "server.admin_token"].contains(&key) || in_section(key)
}

fn in_section(key: &str) -> bool {
    LIVE_SECTIONS.iter().any(|section| key.starts_with(section))
}

pub fn is_live(key: &str) -> bool {
    LIVE.contains(&key) || in_section(key) || hook(key).is_some()
}

/// Every key with its value as text; a hook's config is one value.
pub fn flat(config: &Config) -> BTreeMap<String, String> {
    fn walk(path: String, value: &toml::Value, found: &mut BTreeMap<String, String>) {
        match value {
            toml::Value::Table(table) if hook(&path).is_none() => {
                for (key, value) in table {
                    let dot = if path.is_empty() { "" } else { "." };
                    walk(format!("{path}{dot}{key}"), value, found);
                }
            }
            other => drop(found.insert(path, other.to_string())),
        }
    }
    let mut found = BTreeMap::new();
    if let Ok(table) = toml::Table::try_from(config) {
        walk(String::new(), &toml::Value::Table(table), &mut found);
    }
    found
}

pub fn differing(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter()
        .filter(|&key| old.get(key) != new.get(key))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn changes_are_found_key_by_key_and_sorted() {
        let old = Config::default();
        let mut new = Config::default();
        new.engine.temperature = 0.2;
        new.engine.slots = 9;
        new.server.drain = Duration::from_secs(1);
        let keys = differing(&flat(&old), &flat(&new));
        assert_eq!(keys, ["engine.slots", "engine.temperature", "server.drain"]);
        let live: Vec<_> = keys.iter().map(|key| is_live(key)).collect();
        assert_eq!(live, [false, true, true]);
    }

    #[test]
    fn what_is_shown_follows_what_was_taken_over() {
        let old = Config::default();
        let mut new = Config::default();
        new.engine.temperature = 0.2;
        new.engine.slots = 9;
        new.server.tenants.insert("a.b".into(), Default::default());
        let settings = serde_json::json!({ "exchanges": 5 });
        new.policies.trim.config = settings.as_object().unwrap().clone();
        let mut shown = old.shown();
        for key in [
            "engine.temperature",
            "server.tenants.a.b.per_minute",
            "policies.trim.config",
        ] {
            take_over(&mut shown, &new.shown(), key);
        }
        assert_eq!(shown["engine"]["temperature"].to_string(), "0.2");
        assert_eq!(shown["engine"]["slots"], 4);
        assert_eq!(shown["server"]["tenants"], new.shown()["server"]["tenants"]);
        assert_eq!(shown["policies"]["trim"]["config"]["exchanges"], 5);
    }

    #[test]
    fn the_runbook_names_every_live_key() {
        let runbook = include_str!("../../../../docs/runbook.md");
        let sections = LIVE_SECTIONS.iter().map(|section| format!("{section}*"));
        for key in LIVE.map(str::to_owned).into_iter().chain(sections) {
            assert!(runbook.contains(&format!("`{key}`")), "{key}");
        }
    }

    #[test]
    fn a_hooks_config_is_one_live_key() {
        let mut new = Config::default();
        let settings = serde_json::json!({ "exchanges": 5, "slack": 1 });
        new.policies.trim.config = settings.as_object().unwrap().clone();
        let keys = differing(&flat(&Config::default()), &flat(&new));
        assert_eq!(keys, ["policies.trim.config"]);
        assert!(is_live("policies.trim.config") && !is_live("policies.trim.fail"));
    }
}
