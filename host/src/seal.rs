//! Encryption at rest, of sessions and of what hosts share: XChaCha20-Poly1305
//! (draft-irtf-cfrg-xchacha) with keys from the environment. Its nonces are long enough to be drawn
//! at random for every record.

use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

/// The variable with the keys: `id:hex,id:hex`. The first one seals, all of them open.
pub const KEYS_VARIABLE: &str = "STENT_SESSION_KEYS";
/// The kinds of a wrapped body.
const PLAIN: u8 = 0;
const SEALED: u8 = 1;
const NONCE: usize = 24;
const KEY: usize = 32;
const MAX_ID: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The variable, or the configuration that asks for it.
    #[error("{0}")]
    Setting(String),
    /// Another key, damage, or another version.
    #[error("{0}")]
    Unreadable(String),
}

/// The keys of this process; none where nothing is encrypted.
#[derive(Clone, Default)]
pub struct Keys {
    known: Vec<(String, XChaCha20Poly1305)>,
    /// The first one seals. Otherwise they only open what was sealed before.
    seals: bool,
}

impl Keys {
    pub fn none() -> Self {
        Self::default()
    }

    /// The keys of the environment for what is sealed wherever there is a key; none without it.
    ///
    /// # Errors
    /// A sentence about the variable; it never repeats a key.
    pub fn found() -> Result<Self, SealError> {
        match std::env::var(KEYS_VARIABLE).unwrap_or_default().as_str() {
            "" => Ok(Self::none()),
            keys => Self::parse(keys),
        }
    }

    /// The keys for sessions, which `sessions.encrypt` asks for.
    ///
    /// # Errors
    /// A sentence about the variable; it never repeats a key.
    pub fn of_sessions(encrypt: bool) -> Result<Self, SealError> {
        let found = std::env::var(KEYS_VARIABLE).unwrap_or_default();
        match (encrypt, found.is_empty()) {
            (false, true) => Ok(Self::none()),
            (false, false) => Ok(Self {
                seals: false,
                ..Self::parse(&found)?
            }),
            (true, true) => Err(SealError::Setting(format!(
                "sessions.encrypt is true, but {KEYS_VARIABLE} is not set; expected {EXPECTED}"
            ))),
            (true, false) => Self::parse(&found),
        }
    }

    pub fn parse(text: &str) -> Result<Self, SealError> {
        let mut known: Vec<(String, XChaCha20Poly1305)> = Vec::new();
        for (at, part) in text.split(',').map(str::trim).enumerate() {
            let wrong = |what: &str| {
                SealError::Setting(format!(
                    "{KEYS_VARIABLE}: key {} {what}; expected {EXPECTED}",
                    at + 1
                ))
            };
            let (id, key) = part.split_once(':').ok_or_else(|| wrong("has no id"))?;
            let named = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if id.is_empty() || id.len() > MAX_ID || !id.chars().all(named) {
                return Err(wrong("has an id that is none"));
            }
            if known.iter().any(|(other, _)| other == id) {
                return Err(wrong("has the id of one before it"));
            }
            let key = hex::decode(key).ok().filter(|key| key.len() == KEY);
            let key = key.ok_or_else(|| wrong("is not 64 hexadecimal digits"))?;
            let cipher = XChaCha20Poly1305::new_from_slice(&key)
                .map_err(|_| wrong("is not 64 hexadecimal digits"))?;
            known.push((id.to_owned(), cipher));
        }
        Ok(Self { known, seals: true })
    }

    /// The id of the key that seals.
    pub fn sealing(&self) -> Option<&str> {
        self.sealer().map(|(id, _)| id.as_str())
    }

    fn sealer(&self) -> Option<&(String, XChaCha20Poly1305)> {
        self.known.first().filter(|_| self.seals)
    }

    /// The ids of all keys.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.known.iter().map(|(id, _)| id.as_str())
    }

    /// `version, kind, body`: kind 0 is the plain body, kind 1 a sealed one, bound to `context`.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn pack(&self, version: u8, context: &[u8], body: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok(match self.seal(context, body)? {
            Some(sealed) => [[version, SEALED].as_slice(), &sealed].concat(),
            None => [[version, PLAIN].as_slice(), body].concat(),
        })
    }

    /// Opens what [`Keys::pack`] made. Where there is a key to seal with, a plain body is not
    /// believed: anybody could have written it.
    ///
    /// # Errors
    /// [`SealError::Unreadable`] for another version, another key, another place, or damage.
    pub fn unpack(&self, version: u8, context: &[u8], bytes: &[u8]) -> Result<Vec<u8>, SealError> {
        match bytes {
            [found, SEALED, sealed @ ..] if *found == version => self.open(context, sealed),
            [found, PLAIN, body @ ..] if *found == version && !self.seals => Ok(body.to_vec()),
            _ => Err(SealError::Unreadable(
                "it is of another version, damaged, or not sealed".into(),
            )),
        }
    }

    /// `None` where nothing is encrypted.
    pub fn seal(&self, context: &[u8], body: &[u8]) -> Result<Option<Vec<u8>>, SealError> {
        let Some((id, cipher)) = self.sealer() else {
            return Ok(None);
        };
        let failed = || SealError::Unreadable("it cannot be encrypted".into());
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| failed())?;
        let payload = Payload {
            msg: body,
            aad: context,
        };
        let sealed = cipher
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| failed())?;
        let length = [u8::try_from(id.len()).map_err(|_| failed())?];
        Ok(Some(
            [length.as_slice(), id.as_bytes(), &nonce, &sealed].concat(),
        ))
    }

    /// Opens what [`Keys::seal`] made with the same context.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let damaged = || SealError::Unreadable("its record is damaged".into());
        let (&length, rest) = sealed.split_first().ok_or_else(damaged)?;
        let (id, rest) = rest
            .split_at_checked(usize::from(length))
            .ok_or_else(damaged)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE>().ok_or_else(damaged)?;
        let id = std::str::from_utf8(id).map_err(|_| damaged())?;
        let Some((_, cipher)) = self.known.iter().find(|(known, _)| known == id) else {
            return Err(SealError::Unreadable(format!(
                "it was sealed with key {id:?}, which {KEYS_VARIABLE} does not have"
            )));
        };
        let payload = Payload {
            msg: body,
            aad: context,
        };
        cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| {
            SealError::Unreadable(format!(
                "it was sealed with key {id:?}, and the key of that name in {KEYS_VARIABLE} does \
                 not open it"
            ))
        })
    }
}

/// What the variable looks like.
const EXPECTED: &str = "\"id:KEY\" with 64 hexadecimal digits, as `openssl rand -hex 32` prints, \
                        or several with commas, of which the first one seals";

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        let good = "ab".repeat(32);
        for (text, problem) in [
            (good.clone(), "key 1 has no id"),
            (
                format!("a:{good}, b:{}", &good[1..]),
                "key 2 is not 64 hexadecimal digits",
            ),
            (
                format!("a:{good},a:{good}"),
                "key 2 has the id of one before it",
            ),
            (format!("a b:{good}"), "key 1 has an id that is none"),
            (String::new(), "key 1 has no id"),
        ] {
            let error = Keys::parse(&text).unwrap_err().to_string();
            assert!(
                error.contains(problem) && !error.contains("abab"),
                "{error}"
            );
        }
        let keys = Keys::parse(&format!("new:{good},old:{good}")).unwrap();
        assert_eq!(keys.sealing(), Some("new"));
        assert_eq!(format!("{keys:?}"), "[\"new\", \"old\"]");
        let opening = Keys {
            seals: false,
            ..keys
        };
        assert_eq!(opening.sealing(), None);
        assert_eq!(opening.seal(b"", b"text").unwrap(), None);
    }

    #[test]
    fn what_is_wrapped_opens_in_its_place_only() {
        let sealing = Keys::parse(&format!("a:{}", "11".repeat(32))).unwrap();
        let sealed = sealing.pack(1, b"here", b"canary").unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"canary"));
        assert_eq!(sealing.unpack(1, b"here", &sealed).unwrap(), b"canary");
        let plain = Keys::none().pack(1, b"here", b"canary").unwrap();
        assert_eq!(Keys::none().unpack(1, b"here", &plain).unwrap(), b"canary");
        let mut flipped = sealed.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for (keys, version, context, bytes) in [
            (&sealing, 1, b"else", &sealed),
            (&sealing, 2, b"here", &sealed),
            (&sealing, 1, b"here", &flipped),
            (&sealing, 1, b"here", &plain),
            (&Keys::none(), 1, b"here", &sealed),
            (&Keys::none(), 1, b"here", &Vec::new()),
        ] {
            let opened = keys.unpack(version, context, bytes);
            assert!(opened.is_err(), "{version} {context:?} {bytes:?}");
        }
    }
}
