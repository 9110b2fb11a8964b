//! Answers kept for the same question, in this process or on a server that several hosts share. A
//! policy says whether and how widely; the key is minted in [`identity`], from everything that an
//! answer depends on.

mod format;
mod identity;
mod memory;
mod settings;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use identity::{Audience, Basis, Draw, Identity, Key};
pub use settings::{Settings, Store};

use crate::redis::Redis;
use crate::seal::Keys;
use crate::types::{Finish, Token};
use memory::Memory;
use shared::Shared;

/// No answer is kept longer, whatever a policy says.
const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

/// An answer as the client once saw it. The order of the fields is the stored format.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Cached {
    pub text: Arc<str>,
    pub tokens: Arc<[Token]>,
    pub finish: Finish,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    /// Messages of the history that its prompt left out.
    pub dropped: u32,
}

/// Why a store on another machine could not be used, in a fixed word for labels and spans. A lookup
/// that failed is a miss.
pub type Failure = &'static str;

/// The answers that may be given again.
pub struct Cache(Kind);

enum Kind {
    Off,
    Memory(Memory),
    Redis(Shared),
}

impl Cache {
    /// Opens the store. `keys` seal what leaves this process. Must be called within a tokio runtime
    /// where the store is a server, which need not be there yet.
    ///
    /// # Errors
    /// A sentence that names the key that is wrong.
    pub fn open(settings: &Settings, keys: Keys) -> Result<Self, String> {
        Ok(Self(match &settings.store {
            Store::Off => Kind::Off,
            Store::Memory => Kind::Memory(Memory::new(settings.max_bytes)),
            Store::Redis(address) => Kind::Redis(Shared::open(settings, address, keys)?),
        }))
    }

    /// An answer to the same question that is no older than `max_age`.
    ///
    /// # Errors
    /// What kept a shared store from saying so; nobody waited longer than `cache.timeout`.
    pub async fn lookup(&self, key: &Key, max_age: Duration) -> Result<Option<Cached>, Failure> {
        let found = match &self.0 {
            Kind::Off => None,
            Kind::Memory(memory) => memory.get(key),
            Kind::Redis(shared) => shared.get(key).await?,
        };
        let fresh = found.filter(|(_, age)| *age <= max_age);
        Ok(fresh.map(|(answer, _)| answer))
    }

    /// Keeps a finished answer for `ttl`.
    ///
    /// # Errors
    /// As [`Cache::lookup`].
    pub async fn store(&self, key: Key, answer: Cached, ttl: Duration) -> Result<(), Failure> {
        let ttl = ttl.min(MAX_TTL);
        match &self.0 {
            Kind::Off => Ok(()),
            Kind::Memory(memory) => {
                memory.put(key, answer, ttl);
                Ok(())
            }
            Kind::Redis(shared) => shared.put(&key, &answer, ttl).await,
        }
    }

    /// Forgets everything in memory.
    pub fn clear(&self) {
        if let Kind::Memory(memory) = &self.0 {
            memory.clear();
        }
    }

    /// `cache.store` of the configuration in a word.
    pub fn store_name(&self) -> &'static str {
        match self.0 {
            Kind::Off => "off",
            Kind::Memory(_) => "memory",
            Kind::Redis(_) => "redis",
        }
    }

    pub fn is_off(&self) -> bool {
        matches!(self.0, Kind::Off)
    }

    /// The server that hosts share, and what is sealed there: runs are shared over it too.
    pub fn shared(&self) -> Option<(&Redis, &Keys)> {
        match &self.0 {
            Kind::Redis(shared) => Some(shared.server()),
            Kind::Off | Kind::Memory(_) => None,
        }
    }

    /// Standing trouble of the store in one sentence; requests are served all the same.
    pub fn trouble(&self) -> Option<String> {
        self.shared().and_then(|(redis, _)| redis.trouble())
    }

    /// Answers held: in memory moka's estimate, on a server what the last store there said.
    pub fn entries(&self) -> u64 {
        self.held().0
    }

    /// Bytes held, known in the same way.
    pub fn bytes(&self) -> u64 {
        self.held().1
    }

    fn held(&self) -> (u64, u64) {
        match &self.0 {
            Kind::Off => (0, 0),
            Kind::Memory(memory) => memory.held(),
            Kind::Redis(shared) => shared.held(),
        }
    }
}

#[cfg(test)]
mod tests;
