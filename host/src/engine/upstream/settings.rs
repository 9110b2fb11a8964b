//! `engine.upstreams` and `[engine.upstream]`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use crate::types::units::duration;
use crate::types::wording;

/// One server: a URL, or a table with more.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Up to and with `/v1`.
    pub url: String,
    pub key: Option<Secret>,
    /// A file with the key, read at the start: for secrets that are mounted.
    pub key_file: Option<PathBuf>,
    /// Twice the weight: twice the requests at once.
    pub weight: u32,
}

/// A text that no log, error or printed configuration shows.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one header that it belongs into.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str("(hidden)")
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(serialize_with = "wording::hide_login")]
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<PathBuf>,
    #[serde(default = "one")]
    weight: u32,
}

fn one() -> u32 {
    1
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Table;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a URL such as \"http://host:8000/v1\", or a table with url, key, weight",
                )
            }
            fn visit_str<E>(self, url: &str) -> Result<Table, E> {
                Ok(Table {
                    url: url.to_owned(),
                    key: None,
                    key_file: None,
                    weight: 1,
                })
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Table, M::Error> {
                Table::deserialize(MapAccessDeserializer::new(map))
            }
        }
        let Table {
            url,
            key,
            key_file,
            weight,
        } = d.deserialize_any(Either)?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            key,
            key_file,
            weight,
        })
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Table {
            url: self.url.clone(),
            key: self.key.clone(),
            key_file: self.key_file.clone(),
            weight: self.weight,
        }
        .serialize(s)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("url", &wording::without_login(&self.url))
            .field("key", &self.key)
            .field("key_file", &self.key_file)
            .field("weight", &self.weight)
            .finish()
    }
}

/// In which form a prompt is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// The messages that trimming kept, to `/chat/completions`: the upstream applies its own layout.
    Chat,
    /// The prompt that the policies built, as text, to `/completions`.
    Completions,
    /// The same as token ids: exact, where `tokenizer` is the upstream's own vocabulary.
    Tokens,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub api: Api,
    /// The model to ask for; empty: the first that the upstream lists.
    pub model: String,
    /// GGUF file whose vocabulary counts tokens; empty: an estimate.
    pub tokenizer: PathBuf,
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// From the request to the first word.
    #[serde(with = "duration")]
    pub first_timeout: Duration,
    /// From one piece of an answer to the next.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    #[serde(with = "duration")]
    pub health_every: Duration,
    /// Failures in a row after which an upstream is left alone.
    pub failures: u32,
    /// For how long at first; doubled each time, up to a minute.
    #[serde(with = "duration")]
    pub cooldown: Duration,
    /// Other upstreams that are tried before the first word.
    pub retries: u32,
    /// A session goes back to the same upstream within this time.
    #[serde(with = "duration")]
    pub affinity: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            api: Api::Chat,
            model: String::new(),
            tokenizer: PathBuf::new(),
            connect_timeout: Duration::from_secs(2),
            first_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
            health_every: Duration::from_secs(5),
            failures: 3,
            cooldown: Duration::from_secs(5),
            retries: 2,
            affinity: Duration::from_secs(30 * 60),
        }
    }
}

/// The first thing about the upstreams that cannot work.
pub fn validate(targets: &[Target], settings: &Settings) -> Result<(), String> {
    if targets.is_empty() {
        return Err(
            "engine.upstreams: empty, expected at least one URL such as \
             \"http://host:8000/v1\" for engine.kind = \"openai\""
                .into(),
        );
    }
    for target in targets {
        let shown = shown(&target.url);
        let parsed = reqwest::Url::parse(&target.url);
        let good = parsed.is_ok_and(|url| {
            ["http", "https"].contains(&url.scheme())
                && url.has_host()
                && url.query().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
        if !good {
            return Err(format!(
                "engine.upstreams: {shown:?}, expected a URL such as \"http://host:8000/v1\", \
                 without user or query"
            ));
        }
        if target.weight == 0 {
            return Err(format!(
                "engine.upstreams: weight 0 of {shown}, expected at least 1"
            ));
        }
        if target.key.is_some() && target.key_file.is_some() {
            return Err(format!(
                "engine.upstreams: {shown} has key and key_file, expected one of them"
            ));
        }
    }
    if settings.api == Api::Tokens && settings.tokenizer.as_os_str().is_empty() {
        return Err(
            "engine.upstream.api: \"tokens\", expected with engine.upstream.tokenizer: ids need the \
             upstream's own vocabulary"
                .into(),
        );
    }
    for (key, time) in [
        ("connect_timeout", settings.connect_timeout),
        ("first_timeout", settings.first_timeout),
        ("idle_timeout", settings.idle_timeout),
        ("health_every", settings.health_every),
    ] {
        if time.is_zero() {
            return Err(format!(
                "engine.upstream.{key}: 0s, expected a duration such as \"5s\""
            ));
        }
    }
    Ok(())
}

/// The URL without what may be a password.
pub fn shown(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{rest}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Holder {
        upstreams: Vec<Target>,
    }

    #[test]
    fn a_url_or_a_table_is_read_and_keys_are_never_shown() {
        let read: Holder = toml::from_str(
            "upstreams = [\"http://a:1/v1/\", { url = \"https://b/v1\", key = \"s3cret\", weight = 2 }]",
        )
        .unwrap();
        let [a, b] = &read.upstreams[..] else {
            panic!("two")
        };
        assert_eq!((a.url.as_str(), a.weight), ("http://a:1/v1", 1));
        assert_eq!(b.key.as_ref().unwrap().reveal(), "s3cret");
        let shown = format!("{b:?} {}", serde_json::to_string(b).unwrap());
        assert!(!shown.contains("s3cret") && shown.contains("(hidden)"));
        let typo = toml::from_str::<Holder>("upstreams = [{ url = \"http://a\", wait = 2 }]");
        assert!(
            typo.err()
                .unwrap()
                .to_string()
                .contains("unknown field `wait`")
        );
    }

    #[test]
    fn what_cannot_work_is_named() {
        let target = |url: &str| Target {
            url: url.into(),
            key: None,
            key_file: None,
            weight: 1,
        };
        let check = |targets: &[Target]| validate(targets, &Settings::default());
        assert!(check(&[]).unwrap_err().contains("at least one URL"));
        assert!(check(&[target("host:8000")]).is_err());
        let secret = check(&[target("http://user:pass@host/v1")]).unwrap_err();
        assert!(!secret.contains("pass"), "{secret}");
        let nameless = check(&[target("http://:pass@host/v1")]).unwrap_err();
        assert!(!nameless.contains("pass"), "{nameless}");
        let shown = target("http://user:pass@host/v1");
        let printed = format!("{shown:?} {}", serde_json::to_string(&shown).unwrap());
        assert!(!printed.contains("pass"), "{printed}");
        assert_eq!(check(&[target("http://host:8000/v1")]), Ok(()));
        let tokens = Settings {
            api: Api::Tokens,
            ..Settings::default()
        };
        let refused = validate(&[target("http://host/v1")], &tokens).unwrap_err();
        assert!(refused.contains("engine.upstream.tokenizer"), "{refused}");
    }
}
