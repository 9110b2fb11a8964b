//! `[cache]` of the configuration.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

use crate::redis::{self, Address};
use crate::types::units;

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub store: Store,
    /// Bytes that all answers together may take; the least used go first.
    #[serde(with = "units::bytes")]
    pub max_bytes: u64,
    /// How long Redis may take; a lookup that takes longer is a miss.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// In this process.
    Memory,
    /// Nothing is cached, whatever the policy says.
    Off,
    /// On a server that several hosts may share; they also share the runs of identical questions.
    Redis(Address),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: Store::Memory,
            max_bytes: 64 << 20,
            timeout: redis::TIMEOUT,
        }
    }
}

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(60);

impl Settings {
    /// One sentence for the first value that cannot work.
    ///
    /// # Errors
    /// A sentence that names key, value and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if (SHORTEST..=LONGEST).contains(&self.timeout) {
            return Ok(());
        }
        Err(format!(
            "cache.timeout: {}, expected 1ms to 1m: a request waits so long for nothing where Redis \
             does not answer",
            humantime::format_duration(self.timeout)
        ))
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Off => f.write_str("off"),
            Self::Redis(address) => address.fmt(f),
        }
    }
}

impl Serialize for Store {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Redis(address) => address.serialize(s),
            other => s.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for Store {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        match text.as_str() {
            "memory" => Ok(Self::Memory),
            "off" => Ok(Self::Off),
            url if Address::looks_like(url) => {
                url.parse().map(Self::Redis).map_err(D::Error::custom)
            }
            other => Err(D::Error::custom(format!(
                "found {other:?}, expected \"memory\", \"off\" or an address such as {}",
                redis::EXAMPLE
            ))),
        }
    }
}
