//! What served before, kept on disk: sources by digest, the order in which they served, what was
//! rolled back, and a line for each change.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::types::Hook;

/// `policies/` below the data directory.
pub(super) struct History {
    dir: PathBuf,
    keep: usize,
    state: State,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    /// Oldest first; the last one served last.
    revisions: BTreeMap<Hook, Vec<Entry>>,
    /// Digests that were rolled back: their files stay out until they change.
    held: BTreeMap<Hook, Vec<Held>>,
    /// The number of the last revision of each hook.
    numbers: BTreeMap<Hook, u64>,
}

/// A revision that serves or served.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub number: u64,
    pub sha256: String,
    pub name: String,
    pub version: String,
    pub file: PathBuf,
    pub config_digest: String,
    pub at_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Held {
    pub sha256: String,
    pub reason: String,
    /// The revision that took over; `None`: the built-in policy.
    pub to: Option<Entry>,
}

/// One change, for `GET /admin/audit`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    pub at_ms: u64,
    pub generation: u64,
    pub hook: Hook,
    /// Who: `file`, `api` or `breaker`.
    pub by: String,
    /// `swapped`, `removed`, `rolled-back`, `promoted`, `configured`.
    pub what: String,
    /// Digest before and after; empty for native code.
    pub from: String,
    pub to: String,
    pub reason: String,
}

impl History {
    pub(super) fn open(dir: &Path, keep: usize) -> io::Result<Self> {
        fs::create_dir_all(dir.join("sources"))?;
        let file = dir.join("history.json");
        let state = match fs::read(&file) {
            Ok(json) => serde_json::from_slice(&json).map_err(|e| {
                io::Error::other(format!("{}: not a policy history: {e}", file.display()))
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => State::default(),
            Err(e) => return Err(e),
        };
        Ok(Self {
            dir: dir.to_owned(),
            keep: keep.max(2),
            state,
        })
    }

    /// Where the source of a revision lies.
    pub(super) fn source(&self, sha256: &str) -> PathBuf {
        self.dir.join("sources").join(format!("{sha256}.wasm"))
    }

    /// Keeps a source for rollbacks.
    pub(super) fn store(&self, sha256: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.source(sha256);
        match path.exists() {
            true => Ok(()),
            false => replace(&path, bytes),
        }
    }

    /// The number the hook's next revision gets.
    pub(super) fn next(&self, hook: Hook) -> u64 {
        self.state.numbers.get(&hook).copied().unwrap_or(0) + 1
    }

    pub(super) fn revisions(&self, hook: Hook) -> &[Entry] {
        self.state.revisions.get(&hook).map_or(&[], Vec::as_slice)
    }

    /// The revision served before the one with this digest, if it was not rolled back itself.
    pub(super) fn before(&self, hook: Hook, sha256: &str) -> Option<Entry> {
        let good = |e: &&Entry| e.sha256 != sha256 && self.held(hook, &e.sha256).is_none();
        self.revisions(hook).iter().rev().find(good).cloned()
    }

    pub(super) fn held(&self, hook: Hook, sha256: &str) -> Option<&Held> {
        self.state
            .held
            .get(&hook)?
            .iter()
            .find(|held| held.sha256 == sha256)
    }

    /// Writes down that a revision serves; an entry of the same policy and config moves to the end.
    pub(super) fn served(&mut self, hook: Hook, entry: Entry) -> io::Result<()> {
        self.state
            .numbers
            .insert(hook, self.next(hook).max(entry.number + 1) - 1);
        let entries = self.state.revisions.entry(hook).or_default();
        entries.retain(|e| (&e.sha256, &e.config_digest) != (&entry.sha256, &entry.config_digest));
        entries.push(entry);
        let surplus = entries.len().saturating_sub(self.keep);
        entries.drain(..surplus);
        self.save()?;
        self.sweep();
        Ok(())
    }

    pub(super) fn hold(&mut self, hook: Hook, held: Held) -> io::Result<()> {
        let all = self.state.held.entry(hook).or_default();
        all.retain(|h| h.sha256 != held.sha256);
        all.push(held);
        self.save()
    }

    /// A promoted policy may serve again.
    pub(super) fn release(&mut self, hook: Hook, sha256: &str) -> io::Result<()> {
        self.state
            .held
            .entry(hook)
            .or_default()
            .retain(|h| h.sha256 != sha256);
        self.save()
    }

    /// Appends to the audit log.
    pub(super) fn audit(&self, change: &Change) -> io::Result<()> {
        let path = self.dir.join("audit.jsonl");
        let mut log = OpenOptions::new().create(true).append(true).open(path)?;
        let mut line = serde_json::to_vec(change).map_err(io::Error::other)?;
        line.push(b'\n');
        log.write_all(&line)
    }

    /// Whether a kept revision of any hook is made from this source.
    pub(super) fn names(&self, sha256: &str) -> bool {
        let mut all = self.state.revisions.values().flatten();
        all.any(|entry| entry.sha256 == sha256)
    }

    /// Forgets a source that will not serve, unless a revision names it.
    pub(super) fn discard(&self, sha256: &str) {
        if !self.names(sha256) && !sha256.is_empty() {
            // A source too many costs only room on disk.
            let _ = fs::remove_file(self.source(sha256));
        }
    }

    /// Sources that no revision names any more are removed.
    fn sweep(&self) {
        let named = |file: &str| file.strip_suffix(".wasm").is_some_and(|it| self.names(it));
        let Ok(entries) = fs::read_dir(self.dir.join("sources")) else {
            return;
        };
        for entry in entries.flatten() {
            if !named(&entry.file_name().to_string_lossy()) {
                // A source too many costs only room on disk.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn save(&self) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(&self.state).map_err(io::Error::other)?;
        replace(&self.dir.join("history.json"), &json)
    }
}

/// Why this digest is kept out of `dir`, without opening it for writing; `None` where it is not.
pub(super) fn held(dir: &Path, sha256: &str) -> Option<Held> {
    let json = fs::read(dir.join("history.json")).ok()?;
    let state: State = serde_json::from_slice(&json).ok()?;
    let mut held = state.held.into_values().flatten();
    held.find(|held| held.sha256 == sha256)
}

/// The last changes, newest last. A line that was cut by a crash is left out.
pub(super) fn audit(dir: &Path, limit: usize) -> io::Result<Vec<Change>> {
    let log = match File::open(dir.join("audit.jsonl")) {
        Ok(log) => log,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut changes = std::collections::VecDeque::new();
    for line in io::BufReader::new(log).lines() {
        changes.extend(serde_json::from_str::<Change>(&line?).ok());
        if changes.len() > limit {
            changes.pop_front();
        }
    }
    Ok(changes.into())
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The file is there whole, old or new, whenever the machine stops.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let half = path.with_extension("tmp");
    let mut file = File::create(&half)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&half, path)
}
