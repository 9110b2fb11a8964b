//! Answers kept for the same question. A policy says whether and how widely; the key is minted
//! here, from everything that an answer depends on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache as Moka;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::types::{Finish, Sampling, SessionId, TenantId, Token, units};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub store: Store,
    /// Bytes that all answers together may take; the least used go first.
    #[serde(with = "units::bytes")]
    pub max_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    Memory,
    /// Nothing is cached, whatever the policy says.
    Off,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: Store::Memory,
            max_bytes: 64 << 20,
        }
    }
}

/// Who may meet an answer: one session, all of a tenant, or everybody.
#[derive(Clone, Copy, Debug)]
pub enum Audience<'a> {
    Session(&'a TenantId, &'a SessionId),
    Tenant(&'a TenantId),
    Everybody,
}

/// What the question is: the final prompt, or the policy's own reading of it.
#[derive(Clone, Copy, Debug)]
pub enum Basis<'a> {
    Prompt(&'a [Token]),
    Parts(&'a [String]),
}

/// Everything that an answer depends on. A policy chooses the basis and asks for an audience;
/// it has no say in the rest, so that it can narrow an identity and never widen it.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    pub audience: Audience<'a>,
    pub model: &'a str,
    /// Digests of all policies and their configurations.
    pub policies: &'a str,
    /// What policies were told about the request: they may have decided by it.
    pub attributes: &'a [(String, String)],
    pub sampling: &'a Sampling,
    /// False where the seed is derived from the prompt and the prompt is not known yet.
    pub seeded: bool,
    pub max_tokens: u32,
    pub stop: &'a [String],
    pub basis: Basis<'a>,
}

/// sha256 of an [`Identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Identity<'_> {
    pub fn key(&self) -> Key {
        let mut hash = Fields(Sha256::new());
        match self.audience {
            Audience::Session(tenant, session) => {
                hash.text("session")
                    .text(tenant.as_str())
                    .text(session.as_str());
            }
            Audience::Tenant(tenant) => {
                hash.text("tenant").text(tenant.as_str());
            }
            Audience::Everybody => {
                hash.text("everybody");
            }
        }
        hash.text(self.model).text(self.policies);
        hash.bytes(&self.attributes.len().to_le_bytes());
        for (name, value) in self.attributes {
            hash.text(name).text(value);
        }
        let s = self.sampling;
        for number in [
            s.temperature,
            s.top_p,
            s.min_p,
            s.repeat_penalty,
            s.presence_penalty,
            s.frequency_penalty,
        ] {
            hash.bytes(&number.to_bits().to_le_bytes());
        }
        hash.bytes(&s.top_k.to_le_bytes());
        hash.bytes(&s.logit_bias.len().to_le_bytes());
        for (token, bias) in &s.logit_bias {
            hash.bytes(&token.to_le_bytes())
                .bytes(&bias.to_bits().to_le_bytes());
        }
        hash.text(s.grammar.as_deref().unwrap_or_default());
        match self.seeded {
            true => hash.text("seed").bytes(&s.seed.to_le_bytes()),
            false => hash.text("derived"),
        };
        hash.bytes(&self.max_tokens.to_le_bytes()).texts(self.stop);
        match self.basis {
            Basis::Prompt(tokens) => {
                hash.text("prompt").bytes(&tokens.len().to_le_bytes());
                for token in tokens {
                    hash.0.update(token.to_le_bytes());
                }
            }
            Basis::Parts(parts) => {
                hash.text("parts").texts(parts);
            }
        }
        Key(hash.0.finalize().into())
    }
}

/// Hashes fields with their lengths, so that no two lists of fields read the same.
struct Fields(Sha256);

impl Fields {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes.len().to_le_bytes());
        self.0.update(bytes);
        self
    }
    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }
    fn texts(&mut self, texts: &[String]) -> &mut Self {
        self.bytes(&texts.len().to_le_bytes());
        for text in texts {
            self.text(text);
        }
        self
    }
}

/// An answer as the client once saw it.
#[derive(Clone, Debug)]
pub struct Cached {
    pub text: Arc<str>,
    pub tokens: Arc<[Token]>,
    pub finish: Finish,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
}

#[derive(Clone)]
struct Entry {
    answer: Cached,
    stored: Instant,
    ttl: Duration,
}

struct Ttl;

impl Expiry<Key, Entry> for Ttl {
    fn expire_after_create(&self, _: &Key, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.ttl)
    }

    /// An answer that takes another's place lives by its own time.
    fn expire_after_update(
        &self,
        _: &Key,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.ttl)
    }
}

/// The answers of this process; `None` where caching is off.
pub struct Cache(Option<Moka<Key, Entry>>);

impl Cache {
    pub fn new(settings: &Settings) -> Self {
        let weigh = |_: &Key, entry: &Entry| {
            let answer = &entry.answer;
            let bytes = answer.text.len() + answer.tokens.len() * size_of::<Token>() + 256;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        Self(match settings.store {
            Store::Off => None,
            Store::Memory => Some(
                Moka::builder()
                    .max_capacity(settings.max_bytes)
                    .weigher(weigh)
                    .expire_after(Ttl)
                    .build(),
            ),
        })
    }

    /// An answer to the same question that is no older than `max_age`.
    pub fn lookup(&self, key: &Key, max_age: Duration) -> Option<Cached> {
        let entry = self.0.as_ref()?.get(key)?;
        (entry.stored.elapsed() <= max_age).then_some(entry.answer)
    }

    pub fn store(&self, key: Key, answer: Cached, ttl: Duration) {
        if let Some(held) = &self.0 {
            held.insert(
                key,
                Entry {
                    answer,
                    stored: Instant::now(),
                    ttl,
                },
            );
        }
    }

    /// `cache.store` of the configuration.
    pub fn store_name(&self) -> &'static str {
        if self.is_off() { "off" } else { "memory" }
    }

    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }

    /// Answers held (moka's estimate).
    pub fn entries(&self) -> u64 {
        self.0.as_ref().map_or(0, Moka::entry_count)
    }

    /// Bytes held (moka's estimate).
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, Moka::weighted_size)
    }
}

#[cfg(test)]
mod tests;
