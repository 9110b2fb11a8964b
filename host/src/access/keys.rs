//! Keys and their digests. A key is 256 random bits, which nobody finds by trying: sha256 needs no
//! salt and no slowness here.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// sha256 of a key.
#[derive(Clone, Copy, Default)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// From 64 hex digits.
    pub fn parse(hex: &str) -> Option<Self> {
        let mut digest = [0; 32];
        hex::decode_to_slice(hex, &mut digest).ok()?;
        Some(Self(digest))
    }

    /// Takes the same time whatever they hold.
    pub fn same(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A new key. The prefix lets scanners for leaked secrets find it.
///
/// # Errors
/// When the system has no randomness to give.
pub fn mint() -> Result<String, getrandom::Error> {
    let mut bits = [0_u8; 32];
    getrandom::fill(&mut bits)?;
    Ok(format!("stent_{}", hex::encode(bits)))
}

/// The key of `Bearer KEY` (RFC 6750, section 2.1).
pub fn bearer(authorization: &str) -> Option<&str> {
    scheme(authorization, "bearer")
}

/// The password of `Basic BASE64(user:password)` (RFC 7617), whoever the user is.
pub fn password(authorization: &str) -> Option<String> {
    let pair = STANDARD.decode(scheme(authorization, "basic")?).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    pair.split_once(':')
        .map(|(_, password)| password.to_owned())
}

/// What follows the scheme, whose case does not matter.
fn scheme<'a>(authorization: &'a str, name: &str) -> Option<&'a str> {
    let (scheme, rest) = authorization.split_once(' ')?;
    let rest = rest.trim();
    (scheme.eq_ignore_ascii_case(name) && !rest.is_empty()).then_some(rest)
}
