//! Answers kept for the same question. A policy says whether and how widely; the key is minted
//! in [`identity`], from everything that an answer depends on.

mod identity;

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache as Moka;
use serde::{Deserialize, Serialize};

pub use identity::{Audience, Basis, Draw, Identity, Key};

use crate::types::{Finish, Token, units};

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

/// What an entry takes, with what the cache itself needs to find it.
fn bytes(entry: &Entry) -> usize {
    const FIXED: usize = size_of::<Key>() + size_of::<Entry>() + 160;
    let answer = &entry.answer;
    answer.text.len() + answer.tokens.len() * size_of::<Token>() + FIXED
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
        let weigh = |_: &Key, entry: &Entry| u32::try_from(bytes(entry)).unwrap_or(u32::MAX);
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
            // moka would make room a little later; answers come seldom enough to do it now.
            held.run_pending_tasks();
        }
    }

    /// Forgets everything in memory.
    pub fn clear(&self) {
        if let Some(held) = &self.0 {
            held.invalidate_all();
            held.run_pending_tasks();
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
