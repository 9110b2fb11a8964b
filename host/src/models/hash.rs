//! The sha256 of a whole file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::ModelError;

/// Reads in pieces that are large enough for the disk and small enough for the cache.
const PIECE: usize = 1 << 20;

pub(super) fn file(path: &Path) -> Result<String, ModelError> {
    let mut hasher = Sha256::new();
    feed(path, &mut hasher)?;
    Ok(hex::encode(hasher.finalize()))
}

/// Adds the file's bytes to `hasher` and tells how many they were.
pub(super) fn feed(path: &Path, hasher: &mut Sha256) -> Result<u64, ModelError> {
    let mut file = File::open(path).map_err(ModelError::io("open", path))?;
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    loop {
        let n = file
            .read(&mut piece)
            .map_err(ModelError::io("read", path))?;
        if n == 0 {
            return Ok(total);
        }
        hasher.update(&piece[..n]);
        total += n as u64;
    }
}
