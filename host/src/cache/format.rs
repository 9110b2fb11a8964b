//! An answer as bytes: `version, kind, body`. Version 1 is postcard's encoding of [`Stored`]; the
//! kinds are those of [`Keys::pack`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Cached, Key};
use crate::seal::{Keys, SealError};

/// An answer of another version is no answer: it is made again.
const VERSION: u8 = 1;

#[derive(Deserialize, Serialize)]
struct Stored {
    /// When it was stored, in milliseconds since 1970 by the clock of whoever did.
    at_ms: u64,
    answer: Cached,
}

/// # Errors
/// When the system has no randomness to seal with.
pub fn encode(key: &Key, answer: &Cached, at_ms: u64, keys: &Keys) -> Result<Vec<u8>, SealError> {
    let stored = Stored {
        at_ms,
        answer: answer.clone(),
    };
    let body = postcard::to_allocvec(&stored)
        .map_err(|e| SealError::Unreadable(format!("it cannot be written: {e}")))?;
    keys.pack(VERSION, &context(key), &body)
}

/// The answer and its age; what was sealed under another question opens under none.
///
/// # Errors
/// [`SealError::Unreadable`].
pub fn decode(
    key: &Key,
    bytes: &[u8],
    now_ms: u64,
    keys: &Keys,
) -> Result<(Cached, Duration), SealError> {
    let body = keys.unpack(VERSION, &context(key), bytes)?;
    let Stored { at_ms, answer } =
        postcard::from_bytes(&body).map_err(|e| SealError::Unreadable(e.to_string()))?;
    Ok((answer, Duration::from_millis(now_ms.saturating_sub(at_ms))))
}

/// What a sealed answer is bound to.
fn context(key: &Key) -> Vec<u8> {
    [b"stent answer ".as_slice(), &key.0].concat()
}

#[cfg(test)]
mod tests {
    use super::super::tests::answer;
    use super::*;

    /// What a released version wrote is read by the next one that says version 1.
    #[test]
    fn the_first_format_is_frozen() {
        let (key, keys) = (Key([1; 32]), Keys::none());
        let bytes = encode(&key, &answer("yes"), 1_700_000_000_000, &keys).unwrap();
        assert_eq!(hex::encode(&bytes), FROZEN);
        let (read, age) = decode(&key, &bytes, 1_700_000_000_250, &keys).unwrap();
        assert_eq!((read, age), (answer("yes"), Duration::from_millis(250)));
        assert!(decode(&key, &bytes[..bytes.len() - 1], 0, &keys).is_err());
    }
    const FROZEN: &str = "010080d095ffbc3103796573010e00030102";

    #[test]
    fn a_sealed_answer_shows_nothing_and_answers_one_question() {
        let keys = Keys::parse(&format!("a:{}", "11".repeat(32))).unwrap();
        let sealed = encode(&Key([1; 32]), &answer("a canary"), 5, &keys).unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"canary"));
        assert!(decode(&Key([1; 32]), &sealed, 5, &keys).is_ok());
        assert!(decode(&Key([2; 32]), &sealed, 5, &keys).is_err());
        assert!(decode(&Key([1; 32]), &sealed, 5, &Keys::none()).is_err());
    }
}
