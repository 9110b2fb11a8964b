//! A digest of a whole model file. Models of one family differ in nothing but their weights, and
//! what one of them answered is no answer of another.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// Each piece has a digest of its own, so that several threads can work at one file.
const PIECE: u64 = 16 << 20;
const BUFFER: usize = 1 << 20;

/// Hex sha256 over the pieces' sha256. It reads the whole file, which loading needs in the page cache
/// anyway.
///
/// # Errors
/// When the file cannot be read to its end.
pub fn digest(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let pieces = size.div_ceil(PIECE);
    let (next, found) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let work = || {
        let mut buffer = vec![0; BUFFER];
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= pieces {
                return Ok(());
            }
            let end = size.min((at + 1) * PIECE);
            let digest = piece(&file, at * PIECE, end, &mut buffer)?;
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.push((at, digest));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let ended = |worker: std::thread::ScopedJoinHandle<'_, io::Result<()>>| {
            let lost = || io::Error::other("a thread that reads it has failed");
            worker.join().unwrap_or_else(|_| Err(lost()))
        };
        workers.into_iter().try_for_each(ended)
    })?;
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_unstable();
    let mut whole = Sha256::new();
    whole.update(size.to_le_bytes());
    for (_, digest) in found {
        whole.update(digest);
    }
    Ok(hex::encode(whole.finalize()))
}

fn piece(file: &File, mut at: u64, end: u64, buffer: &mut [u8]) -> io::Result<[u8; 32]> {
    let mut digest = Sha256::new();
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        let Some(into) = buffer.get_mut(..most) else {
            break;
        };
        file.read_exact_at(into, at)?;
        digest.update(&*into);
        at += most as u64;
    }
    Ok(digest.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_byte_anywhere_makes_another_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let size = usize::try_from(PIECE).unwrap() * 2 + 12_345;
        let mut bytes = vec![7_u8; size];
        std::fs::write(&path, &bytes).unwrap();
        let first = digest(&path).unwrap();
        assert_eq!(first, digest(&path).unwrap());
        let mut known = std::collections::HashSet::from([first]);
        for at in [0, size / 2, size - 1] {
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(known.insert(digest(&path).unwrap()), "byte {at}");
        }
        std::fs::write(&path, &bytes[..size - 1]).unwrap();
        assert!(known.insert(digest(&path).unwrap()), "shorter");
    }
}
