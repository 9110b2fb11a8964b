//! How durations and sizes are written in configuration: `"60s"`, `"512MiB"`.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::{Deserializer, Error, Visitor};
use serde::ser::Serializer;

/// `#[serde(with = "units::duration")]`: `"250ms"`, `"1m 30s"`, `"2h"`.
pub mod duration {
    use super::*;

    pub fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Duration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"250ms\", \"60s\" or \"2h\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
                humantime::parse_duration(text)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        d.deserialize_any(Text)
    }
}

/// `#[serde(with = "units::address")]`: `"127.0.0.1:8000"`, `"[::1]:8000"`.
pub mod address {
    use super::*;

    pub fn serialize<S: Serializer>(value: &SocketAddr, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SocketAddr, D::Error> {
        struct Address;
        impl Visitor<'_> for Address {
            type Value = SocketAddr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as 127.0.0.1:8000")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<SocketAddr, E> {
                text.parse()
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        d.deserialize_any(Address)
    }
}

/// `#[serde(with = "units::bytes")]`: a number of bytes, or `"64KiB"`, `"512MiB"`, `"2GiB"`.
pub mod bytes {
    use super::*;

    const UNITS: [(&str, u64); 4] = [
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("B", 1),
    ];

    pub fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        let exact = UNITS
            .iter()
            .find(|(_, size)| *value >= *size && value.is_multiple_of(*size));
        match exact {
            Some((unit, size)) if *size > 1 => {
                s.collect_str(&format_args!("{}{unit}", value / size))
            }
            _ => s.serialize_u64(*value),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        struct Size;
        impl Visitor<'_> for Size {
            type Value = u64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 65536, \"64KiB\", \"512MiB\" or \"2GiB\"")
            }
            fn visit_i64<E: Error>(self, n: i64) -> Result<u64, E> {
                u64::try_from(n)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(n), &self))
            }
            fn visit_u64<E: Error>(self, n: u64) -> Result<u64, E> {
                Ok(n)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
                parse(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        d.deserialize_any(Size)
    }

    fn parse(text: &str) -> Option<u64> {
        let text = text.trim();
        let (number, size) = UNITS
            .iter()
            .find_map(|(unit, size)| Some((text.strip_suffix(unit)?, *size)))
            .unwrap_or((text, 1));
        number.trim().parse::<u64>().ok()?.checked_mul(size)
    }

    #[cfg(test)]
    mod tests {
        use super::parse;

        #[test]
        fn sizes_are_read_with_their_unit() {
            assert_eq!(parse("64KiB"), Some(65_536));
            assert_eq!(parse("2 GiB"), Some(2 << 30));
            assert_eq!(parse("17"), Some(17));
            assert_eq!(parse("17MB"), None);
            assert_eq!(parse("99999999999GiB"), None);
        }
    }
}
