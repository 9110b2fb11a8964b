//! Records as bytes: `version, kind, body`. Version 1 is postcard's encoding of [`Record`]; kind 0
//! is the plain body, kind 1 a sealed one: `length of key id, key id, nonce, ciphertext`.

use super::error::SessionError;
use super::record::Record;
use crate::seal::Keys;
use crate::types::SessionKey;

/// The version that is written; this one and older ones are read.
pub const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const SEALED: u8 = 1;

pub fn encode(key: &SessionKey, record: &Record, keys: &Keys) -> Result<Vec<u8>, SessionError> {
    let body = postcard::to_allocvec(record)
        .map_err(|e| SessionError::Unreadable(format!("it cannot be written: {e}")))?;
    match keys.seal(&context(key, record.exchange), &body)? {
        Some(sealed) => Ok([[VERSION, SEALED].as_slice(), &sealed].concat()),
        None => Ok([[VERSION, PLAIN].as_slice(), &body].concat()),
    }
}

/// Reads what [`encode`] wrote for this session and number. A sealed record opens nowhere else.
pub fn decode(
    key: &SessionKey,
    exchange: u32,
    bytes: &[u8],
    keys: &Keys,
) -> Result<Record, SessionError> {
    let (&version, rest) = bytes
        .split_first()
        .ok_or_else(|| SessionError::Unreadable("its record is empty".into()))?;
    check_version(version)?;
    let record: Result<Record, _> = match rest.split_first() {
        Some((&PLAIN, body)) => postcard::from_bytes(body),
        Some((&SEALED, sealed)) => {
            postcard::from_bytes(&keys.open(&context(key, exchange), sealed)?)
        }
        _ => return Err(SessionError::Unreadable("its record is damaged".into())),
    };
    match record {
        Ok(record) if record.exchange == exchange => Ok(record),
        _ => Err(SessionError::Unreadable("its record is damaged".into())),
    }
}

/// # Errors
/// A sentence for a version that is newer than this program.
pub fn check_version(version: u8) -> Result<(), SessionError> {
    if version <= VERSION {
        return Ok(());
    }
    Err(SessionError::Unreadable(format!(
        "it was written in format {version} by a newer version of Stent, this one reads up to \
         format {VERSION}"
    )))
}

/// What a sealed record is bound to.
fn context(key: &SessionKey, exchange: u32) -> Vec<u8> {
    let (tenant, session) = (key.tenant.as_str(), key.session.as_str());
    let mut context = vec![VERSION];
    for part in [
        tenant.as_bytes(),
        session.as_bytes(),
        &exchange.to_be_bytes(),
    ] {
        context.extend_from_slice(&(part.len() as u64).to_be_bytes());
        context.extend_from_slice(part);
    }
    context
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::record::Text;
    use super::*;
    use crate::types::{Role, SessionId, TenantId};

    fn key() -> SessionKey {
        SessionKey {
            tenant: TenantId::new("clinic"),
            session: SessionId::parse("s1").unwrap(),
        }
    }

    fn record() -> Record {
        let text = |role, text: &str| Text {
            role,
            text: text.into(),
            tokens: Arc::from([1, -2, 32_000]),
            pinned: false,
        };
        Record {
            exchange: 3,
            at_ms: 1_700_000_000_000,
            anchor: Some(4),
            model: "m".into(),
            question: text(Role::User, "Why?"),
            answer: text(Role::Assistant, "So."),
        }
    }

    /// Format 1 never changes: what a released version wrote must be read for ever.
    #[test]
    fn the_first_format_is_frozen() {
        let bytes = encode(&key(), &record(), &Keys::none()).unwrap();
        assert_eq!(hex::encode(&bytes), FROZEN);
        let read = decode(&key(), 3, &hex::decode(FROZEN).unwrap(), &Keys::none()).unwrap();
        assert_eq!(read, record());
    }
    const FROZEN: &str =
        "01000380d095ffbc310104016d01045768793f03020380f403000203536f2e03020380f40300";

    #[test]
    fn a_newer_version_and_damage_are_refused_in_words() {
        let mut bytes = encode(&key(), &record(), &Keys::none()).unwrap();
        let told = |bytes: &[u8], exchange| {
            let error = decode(&key(), exchange, bytes, &Keys::none()).unwrap_err();
            error.to_string()
        };
        assert!(
            told(&bytes, 4).contains("damaged"),
            "another number's record"
        );
        assert!(told(&bytes[..bytes.len() - 3], 3).contains("damaged"));
        assert!(told(&[], 3).contains("empty"));
        bytes[0] = 2;
        assert_eq!(
            told(&bytes, 3),
            "this session cannot be read: it was written in format 2 by a newer version of Stent, \
             this one reads up to format 1"
        );
    }

    #[test]
    fn a_sealed_record_opens_with_its_key_in_its_place_only() {
        let of = |text: &str| Keys::parse(text).unwrap();
        let (a, b) = (
            "a:".to_owned() + &"11".repeat(32),
            "b:".to_owned() + &"22".repeat(32),
        );
        let sealed = encode(&key(), &record(), &of(&a)).unwrap();
        assert!(!sealed.windows(4).any(|part| part == b"Why?"));
        let open = |key: &SessionKey, exchange, keys: &str| {
            decode(key, exchange, &sealed, &of(keys)).map_err(|e| e.to_string())
        };
        assert_eq!(open(&key(), 3, &a).unwrap(), record());
        // Rotated: another key is written with, the old one still opens.
        assert_eq!(open(&key(), 3, &format!("{b},{a}")).unwrap(), record());
        let error = open(&key(), 3, &b).unwrap_err();
        assert!(
            error.contains("sealed with key \"a\"") && error.contains("STENT_SESSION_KEYS"),
            "{error}"
        );
        let wrong = "a:".to_owned() + &"33".repeat(32);
        let error = open(&key(), 3, &wrong).unwrap_err();
        assert!(
            error.contains("key \"a\"") && error.contains("does not open"),
            "{error}"
        );
        let other = SessionKey {
            session: SessionId::parse("s2").unwrap(),
            ..key()
        };
        assert!(open(&other, 3, &a).is_err(), "moved to another session");
        assert!(open(&key(), 2, &a).is_err(), "moved to another place");
        let error = decode(&key(), 3, &sealed, &Keys::none())
            .unwrap_err()
            .to_string();
        assert!(error.contains("sealed with key \"a\""), "{error}");
        let again = encode(&key(), &record(), &of(&a)).unwrap();
        assert_ne!(again, sealed, "a nonce is used once");
    }
}
