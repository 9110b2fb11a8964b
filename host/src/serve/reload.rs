//! Another configuration while serving: what can change does, what cannot is named.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use stent::chat::{Gateway, Live};
use stent::config::Config;
use stent::policy::Hook;

/// How often the file is looked at. Its time and size are asked for, because files that are mounted
/// (ConfigMaps, NFS) raise no events.
const EVERY: Duration = Duration::from_secs(1);

/// Keys whose new value holds from the next request on.
const LIVE: [&str; 8] = [
    "engine.max_tokens",
    "engine.temperature",
    "engine.seed",
    "engine.queue",
    "server.reader_timeout",
    "server.drain",
    "server.max_rss",
    "telemetry.capture_content",
];

/// Where the configuration comes from.
pub struct Source {
    pub file: Option<PathBuf>,
    pub load: Box<dyn Fn() -> anyhow::Result<(Config, Vec<String>)> + Send + Sync>,
}

/// What is reached by a reload.
pub struct Reach {
    pub gateway: Arc<Gateway>,
    pub max_rss: Arc<AtomicU64>,
    pub drain_ms: Arc<AtomicU64>,
}

pub struct Reloader {
    source: Source,
    reach: Reach,
    /// What is in force, key by key.
    current: BTreeMap<String, String>,
    seen: Option<(SystemTime, u64)>,
}

impl Reloader {
    pub fn new(source: Source, reach: Reach, config: &Config) -> Self {
        let seen = stamp(&source);
        Self {
            source,
            reach,
            current: flat(config),
            seen,
        }
    }

    /// Waits until the file has changed and stayed the same for one look.
    pub async fn changed(&mut self) {
        let mut last = self.seen;
        loop {
            tokio::time::sleep(EVERY).await;
            let now = stamp(&self.source);
            if now.is_some() && now != self.seen && now == last {
                self.seen = now;
                return;
            }
            last = now;
        }
    }

    /// Reads everything again; a configuration with a mistake changes nothing.
    pub async fn reload(&mut self, why: &str) {
        let config = match (self.source.load)() {
            Ok((config, warnings)) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                config
            }
            Err(error) => {
                tracing::error!(
                    why,
                    error = format!("{error:#}"),
                    "the configuration was not reloaded"
                );
                return;
            }
        };
        let next = flat(&config);
        let (live, refused): (Vec<String>, Vec<String>) = differing(&self.current, &next)
            .into_iter()
            .partition(|key| is_live(key));
        let mut done = Vec::new();
        for key in live {
            match self.apply(&key, &config).await {
                Ok(()) => {
                    match next.get(&key) {
                        Some(value) => self.current.insert(key.clone(), value.clone()),
                        None => self.current.remove(&key),
                    };
                    done.push(key);
                }
                Err(error) => tracing::error!(key, error, "this change was refused"),
            }
        }
        tracing::info!(why, changed = done.join(", "), "configuration reloaded");
        if !refused.is_empty() {
            tracing::warn!(
                keys = refused.join(", "),
                "these keys hold from the next start on; SIGUSR2 starts anew without a gap"
            );
        }
    }

    async fn apply(&self, key: &str, config: &Config) -> Result<(), String> {
        let gateway = &self.reach.gateway;
        if let Some(hook) = hook(key) {
            let settings = config.policies.hook(hook).config.clone();
            let configured = gateway.policies.configure(hook, settings).await;
            return configured.map_err(|error| error.to_string());
        }
        match key {
            "server.max_rss" => self
                .reach
                .max_rss
                .store(config.server.max_rss, Ordering::Relaxed),
            "server.drain" => {
                let ms = u64::try_from(config.server.drain.as_millis()).unwrap_or(u64::MAX);
                self.reach.drain_ms.store(ms, Ordering::Relaxed);
            }
            "engine.queue" => {
                let (slots, queue) = (config.engine.slots as usize, config.engine.queue as usize);
                gateway.admission.resize(slots + queue);
            }
            _ => gateway.live.store(Arc::new(live(config))),
        }
        Ok(())
    }
}

/// What a request takes from the configuration when it begins.
pub fn live(config: &Config) -> Live {
    Live {
        defaults: stent::chat::Defaults {
            max_tokens: config.engine.max_tokens,
            temperature: config.engine.temperature,
            seed: config.engine.seed,
        },
        reader_timeout: config.server.reader_timeout,
        capture_content: config.telemetry.capture_content,
    }
}

fn stamp(source: &Source) -> Option<(SystemTime, u64)> {
    let about = std::fs::metadata(source.file.as_ref()?).ok()?;
    Some((about.modified().ok()?, about.len()))
}

/// `policies.trim.config.exchanges` is about trim.
fn hook(key: &str) -> Option<Hook> {
    let rest = key.strip_prefix("policies.")?;
    let (name, rest) = rest.split_once('.')?;
    let config = rest == "config" || rest.starts_with("config.");
    Hook::ALL
        .into_iter()
        .find(|hook| hook.as_str() == name)
        .filter(|_| config)
}

fn is_live(key: &str) -> bool {
    LIVE.contains(&key) || hook(key).is_some()
}

/// Every key with its value as text; a hook's config is one value.
fn flat(config: &Config) -> BTreeMap<String, String> {
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

fn differing(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter()
        .filter(|&key| old.get(key) != new.get(key))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
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
    fn a_hooks_config_is_one_live_key() {
        let mut new = Config::default();
        let settings = serde_json::json!({ "exchanges": 5, "slack": 1 });
        new.policies.trim.config = settings.as_object().unwrap().clone();
        let keys = differing(&flat(&Config::default()), &flat(&new));
        assert_eq!(keys, ["policies.trim.config"]);
        assert!(is_live("policies.trim.config") && !is_live("policies.trim.fail"));
    }
}
