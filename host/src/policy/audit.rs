//! A line for each change of a policy, in `audit.jsonl`. The file is bounded: a policy that is dropped
//! every minute must not fill the disk, nor make its readers wait.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::types::Hook;

const FILE: &str = "audit.jsonl";
/// What was written before `FILE` was begun anew.
const OLDER: &str = "audit.1.jsonl";
/// A file that has so many bytes is put aside, and the one before is gone: some thousand changes.
const BYTES: u64 = 1 << 20;

/// One change, for `GET /admin/audit`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    pub at_ms: u64,
    pub generation: u64,
    pub hook: Hook,
    /// Who: `file`, `api` or `breaker`.
    pub by: String,
    /// `swapped`, `removed`, `rolled-back`, `promoted`, `configured`; of a shadow, `shadowed` and
    /// `unshadowed`.
    pub what: String,
    /// Digest before and after; empty for native code.
    pub from: String,
    pub to: String,
    pub reason: String,
}

/// Appends a change.
pub(super) fn write(dir: &Path, change: &Change) -> io::Result<()> {
    let path = dir.join(FILE);
    if fs::metadata(&path).is_ok_and(|meta| meta.len() >= BYTES) {
        fs::rename(&path, dir.join(OLDER))?;
    }
    let mut log = OpenOptions::new().create(true).append(true).open(path)?;
    let mut line = serde_json::to_vec(change).map_err(io::Error::other)?;
    line.push(b'\n');
    log.write_all(&line)
}

/// The last changes, newest last. A line that was cut by a crash is left out.
pub(super) fn read(dir: &Path, limit: usize) -> io::Result<Vec<Change>> {
    let mut changes = std::collections::VecDeque::new();
    for file in [OLDER, FILE] {
        let log = match File::open(dir.join(file)) {
            Ok(log) => log,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for line in io::BufReader::new(log).lines() {
            changes.extend(serde_json::from_str::<Change>(&line?).ok());
            if changes.len() > limit {
                changes.pop_front();
            }
        }
    }
    Ok(changes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_many_changes_keeps_the_last_ones() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let change = |at_ms| Change {
            at_ms,
            generation: at_ms,
            hook: Hook::Trim,
            by: "file".into(),
            what: "swapped".into(),
            from: String::new(),
            to: String::new(),
            reason: "x".repeat(100_000),
        };
        for at_ms in 0..40 {
            write(dir.path(), &change(at_ms))?;
        }
        let told: Vec<u64> = read(dir.path(), 15)?.iter().map(|c| c.at_ms).collect();
        assert_eq!(told, (25..40).collect::<Vec<_>>());
        let files = [FILE, OLDER].map(|file| fs::metadata(dir.path().join(file)).unwrap().len());
        assert!(
            files.iter().all(|&bytes| bytes < BYTES + 200_000),
            "{files:?}"
        );
        Ok(())
    }
}
