//! `[sessions]` of the configuration.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

use crate::redis::Address;
use crate::types::units;

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub store: Where,
    /// A session is forgotten so long after its last exchange.
    #[serde(with = "units::duration")]
    pub ttl: Duration,
    /// Bytes that all histories together may take, in memory or in the file; those whose last
    /// exchange is longest ago go first. Redis has a limit of its own.
    #[serde(with = "units::bytes")]
    pub max_bytes: u64,
    /// Exchanges that one session remembers; the oldest go first.
    pub max_exchanges: u32,
    /// What a request gets while another one of the same session runs.
    pub on_busy: OnBusy,
    /// The longest that it waits.
    #[serde(with = "units::duration")]
    pub busy_timeout: Duration,
    /// What a request gets while Redis cannot be used.
    pub on_store_failure: OnFailure,
    /// How long Redis may take.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// Seal what redb and Redis hold, with the first key of `STENT_SESSION_KEYS`.
    pub encrypt: bool,
}

/// Where sessions lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Where {
    /// In this process; gone with it.
    Memory,
    /// In a file of `data.dir`.
    Redb,
    /// On a server that several hosts may share.
    Redis(Address),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBusy {
    Wait,
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// 503.
    Refuse,
    /// This host remembers by itself, and writes to Redis what it has when that is back.
    Local,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: Where::Redb,
            ttl: Duration::from_secs(24 * 3600),
            max_bytes: 256 << 20,
            max_exchanges: 200,
            on_busy: OnBusy::Wait,
            busy_timeout: Duration::from_secs(60),
            on_store_failure: OnFailure::Refuse,
            timeout: Duration::from_millis(250),
            encrypt: false,
        }
    }
}

/// The stores count time in a way that ends; nobody waits longer than this.
const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Settings {
    /// One sentence for the first value that cannot work.
    ///
    /// # Errors
    /// A sentence that names key, value and what would be right.
    pub fn check(&self) -> Result<(), String> {
        let shown = humantime::format_duration;
        if self.ttl < Duration::from_millis(1) || self.ttl > MAX_TTL {
            return Err(format!(
                "sessions.ttl: {}, expected at least 1ms and at most 100 years",
                shown(self.ttl)
            ));
        }
        if self.max_exchanges == 0 {
            return Err("sessions.max_exchanges: 0, expected 1 or more".into());
        }
        if self.busy_timeout.is_zero() {
            return Err(
                "sessions.busy_timeout: 0s, expected more; on_busy = \"refuse\" waits for nothing"
                    .into(),
            );
        }
        const TIMEOUT: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(60)];
        if self.timeout < TIMEOUT[0] || self.timeout > TIMEOUT[1] {
            return Err(format!(
                "sessions.timeout: {}, expected 1ms to 1m",
                shown(self.timeout)
            ));
        }
        let redis = matches!(self.store, Where::Redis(_));
        if self.on_store_failure == OnFailure::Local && !redis {
            return Err(format!(
                "sessions.on_store_failure: \"local\", expected \"refuse\" with sessions.store = \
                 \"{}\": only Redis can fail apart from this host",
                self.store
            ));
        }
        if self.encrypt && self.store == Where::Memory {
            return Err(
                "sessions.encrypt: true, expected false with sessions.store = \"memory\", which \
                 writes nothing down"
                    .into(),
            );
        }
        Ok(())
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Redb => f.write_str("redb"),
            Self::Redis(address) => address.fmt(f),
        }
    }
}

impl Serialize for Where {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Redis(address) => address.serialize(s),
            other => s.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for Where {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        match text.as_str() {
            "memory" => Ok(Self::Memory),
            "redb" => Ok(Self::Redb),
            url if Address::looks_like(url) => {
                url.parse().map(Self::Redis).map_err(D::Error::custom)
            }
            other => Err(D::Error::custom(format!(
                "found {other:?}, expected \"redb\", \"memory\" or an address such as {}",
                crate::redis::EXAMPLE
            ))),
        }
    }
}
