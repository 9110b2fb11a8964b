//! Ed25519 signatures (RFC 8032) of policy files: `NAME.wasm.sig` holds 128 hex digits.

use std::fs;
use std::path::Path;

use ed25519_dalek::{Signature, VerifyingKey};

use super::folder;
use super::stage::{Rejection, Stage};

/// Whether these are the hex digits of a key that can verify anything.
pub(super) fn is_key(text: &str) -> bool {
    let mut raw = [0; 32];
    hex::decode_to_slice(text, &mut raw).is_ok()
        && VerifyingKey::from_bytes(&raw).is_ok_and(|key| !key.is_weak())
}

/// Accepts the file if one of the trusted keys signed exactly these bytes.
pub(super) fn verify(path: &Path, bytes: &[u8], trusted: &[String]) -> Result<(), Rejection> {
    if trusted.is_empty() {
        return Ok(());
    }
    let file = folder::signature(path);
    let shown = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let text = fs::read_to_string(&file).map_err(|e| {
        Stage::Verify.reject(format!(
            "policies.trusted_keys asks for a signature, and {shown}: {e}"
        ))
    })?;
    let mut raw = [0; 64];
    hex::decode_to_slice(text.trim(), &mut raw).map_err(|_| {
        Stage::Verify.reject(format!(
            "{shown} does not hold 128 hex digits of a signature"
        ))
    })?;
    let signature = Signature::from_bytes(&raw);
    let signed = |key: &String| {
        let mut raw = [0; 32];
        hex::decode_to_slice(key, &mut raw).is_ok()
            && VerifyingKey::from_bytes(&raw)
                .is_ok_and(|key| key.verify_strict(bytes, &signature).is_ok())
    };
    match trusted.iter().any(signed) {
        true => Ok(()),
        false => Err(Stage::Verify.reject(format!(
            "{shown} is not a signature of this file by any of the {} trusted keys",
            trusted.len()
        ))),
    }
}

/// The same of a file that nobody has read yet.
pub(super) fn verify_file(path: &Path, trusted: &[String]) -> Result<(), Rejection> {
    if trusted.is_empty() {
        return Ok(());
    }
    let bytes = fs::read(path);
    let bytes = bytes.map_err(|e| Stage::Verify.reject(format!("cannot be read: {e}")))?;
    verify(path, &bytes, trusted)
}
