//! A server's address as the configuration writes it.

use std::fmt;
use std::str::FromStr;

use ::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

/// `redis://[user:password@]host[:port][/database]` or `redis+unix:///path`; `valkey` means the
/// same. Shown without its
/// password, also where it is serialised.
#[derive(Clone)]
pub struct Address {
    url: String,
    info: ConnectionInfo,
}

/// What an address looks like.
pub const EXAMPLE: &str = "\"redis://127.0.0.1:6379/0\"";

impl Address {
    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Whether `text` means to be an address of Redis.
    pub fn looks_like(text: &str) -> bool {
        text.contains("://")
    }
}

impl FromStr for Address {
    type Err = String;

    /// The error never repeats the address, which may hold a password.
    fn from_str(url: &str) -> Result<Self, String> {
        if url.starts_with("rediss://") || url.starts_with("valkeys://") {
            return Err(format!(
                "found an address with TLS, which this build does not speak; expected \
                 one such as {EXAMPLE}"
            ));
        }
        let wrong =
            || format!("found no address of a Redis server, expected one such as {EXAMPLE}");
        const SCHEMES: [&str; 4] = ["redis", "valkey", "redis+unix", "valkey+unix"];
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        if !scheme.is_some_and(|scheme| SCHEMES.contains(&scheme)) {
            return Err(wrong());
        }
        let info = url.into_connection_info().map_err(|_| wrong())?;
        Ok(Self {
            url: url.to_owned(),
            info,
        })
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url
    }
}

impl Eq for Address {}

/// `redis://127.0.0.1:6379/0`, whoever logs in.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                let host = if host.contains(':') {
                    format!("[{host}]")
                } else {
                    host.clone()
                };
                write!(
                    f,
                    "redis://{host}:{port}/{}",
                    self.info.redis_settings().db()
                )
            }
            other => write!(f, "{other}"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.info.redis_settings().password() {
            None => s.serialize_str(&self.url),
            Some(_) => s.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_who_logs_in() {
        let address: Address = "redis://me:hunter2@cache.example:7000/3".parse().unwrap();
        assert_eq!(address.to_string(), "redis://cache.example:7000/3");
        assert!(!format!("{address:?}").contains("hunter2"));
        assert_eq!(
            serde_json::to_string(&address).unwrap(),
            "\"redis://cache.example:7000/3\""
        );
        let plain: Address = "redis://127.0.0.1".parse().unwrap();
        assert_eq!(plain.to_string(), "redis://127.0.0.1:6379/0");
        assert_eq!(
            serde_json::to_string(&plain).unwrap(),
            "\"redis://127.0.0.1\""
        );
        let six: Address = "redis://[::1]:6380".parse().unwrap();
        assert_eq!(six.to_string(), "redis://[::1]:6380/0");
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for wrong in [
            "rediss://:hunter2@a",
            "http://hunter2",
            "redis://:hunter2@a:port",
            "redis://a/hunter2",
        ] {
            let error = wrong.parse::<Address>().unwrap_err();
            assert!(error.contains("redis://127.0.0.1:6379/0"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
