//! What served before, kept on disk: sources by digest, the order in which they served, what was
//! rolled back, and a line for each change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::folder;
use super::types::Hook;

/// `policies/` below the data directory.
pub(super) struct History {
    dir: PathBuf,
    keep: usize,
    state: State,
    /// What is being compiled: kept, although no revision is made from it yet.
    coming: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    /// Oldest first; the last one served last.
    revisions: BTreeMap<Hook, Vec<Entry>>,
    /// Digests that were rolled back: their files stay out until they change.
    held: BTreeMap<Hook, Vec<Held>>,
    /// The number of the last revision of each hook.
    numbers: BTreeMap<Hook, u64>,
    /// The configs of what is kept, by their digests.
    #[serde(default)]
    configs: BTreeMap<String, String>,
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
    /// When it began to serve, by its last beginning; a restart is none.
    pub at_ms: u64,
    /// When it ended; `None` while it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Why it ended: what happened, and which file or reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Held {
    pub sha256: String,
    /// Where the same file goes on to serve with an older config: the config that is kept out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
    pub reason: String,
    /// The revision that took over; `None`: the built-in policy.
    pub to: Option<Entry>,
}

impl Entry {
    /// Whether both are the same policy with the same config.
    fn is_as(&self, other: &Self) -> bool {
        (&self.sha256, &self.config_digest) == (&other.sha256, &other.config_digest)
    }
}

impl Held {
    pub(super) fn keeps_out(&self, sha256: &str, config_digest: &str) -> bool {
        let with = self.config_digest.as_deref();
        self.sha256 == sha256 && with.is_none_or(|it| it == config_digest)
    }
}

impl History {
    pub(super) fn open(dir: &Path, keep: usize) -> io::Result<Self> {
        fs::create_dir_all(dir.join("sources"))?;
        let file = dir.join("history.json");
        let state = match fs::read(&file) {
            Ok(json) => serde_json::from_slice(&json).map_err(|e| {
                io::Error::other(format!(
                    "{}: found no policy history ({e}): move it away to start without revisions to \
                     roll back to, and look at what was rolled back before (audit.jsonl)",
                    file.display()
                ))
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => State::default(),
            Err(e) => return Err(e),
        };
        Ok(Self {
            dir: dir.to_owned(),
            keep: keep.max(2),
            state,
            coming: None,
        })
    }

    /// Where the source of a revision lies.
    pub(super) fn source(&self, sha256: &str) -> PathBuf {
        self.dir.join("sources").join(format!("{sha256}.wasm"))
    }

    /// Keeps a source for rollbacks, with its signature where it needs one: a rollback asks for it
    /// again.
    pub(super) fn store(
        &self,
        sha256: &str,
        bytes: &[u8],
        signature: Option<&Path>,
    ) -> io::Result<()> {
        let path = self.source(sha256);
        if let Some(signature) = signature {
            replace(&folder::signature(&path), &fs::read(signature)?)?;
        }
        match path.exists() {
            true => Ok(()),
            false => replace(&path, bytes),
        }
    }

    /// The revision's number: policy and config that served before have theirs.
    pub(super) fn number(&self, hook: Hook, sha256: &str, config_digest: &str) -> u64 {
        let mut known = self.revisions(hook).iter();
        let known = known.find(|e| e.sha256 == sha256 && e.config_digest == config_digest);
        known.map_or_else(|| self.next(hook), |entry| entry.number)
    }

    fn next(&self, hook: Hook) -> u64 {
        self.state.numbers.get(&hook).copied().unwrap_or(0) + 1
    }

    pub(super) fn revisions(&self, hook: Hook) -> &[Entry] {
        self.state.revisions.get(&hook).map_or(&[], Vec::as_slice)
    }

    /// Revisions other than this one, by policy and config, that were not rolled back, newest first.
    pub(super) fn before(&self, hook: Hook, sha256: &str, config_digest: &str) -> Vec<Entry> {
        let other = |e: &&Entry| (&*e.sha256, &*e.config_digest) != (sha256, config_digest);
        let free = |e: &&Entry| self.held(hook, &e.sha256, &e.config_digest).is_none();
        let newest_first = self.revisions(hook).iter().rev();
        newest_first.filter(other).filter(free).cloned().collect()
    }

    /// The config that a revision of the history served with; `None` where it was not kept.
    pub(super) fn config(&self, config_digest: &str) -> Option<&str> {
        self.state.configs.get(config_digest).map(String::as_str)
    }

    /// The revision that a rollback brought back and that served last.
    pub(super) fn rolled_back_to(&self, hook: Hook) -> Option<&Entry> {
        let last = self.revisions(hook).last()?;
        let mut held = self.state.held.get(&hook)?.iter();
        let to_it = held.any(|held| held.to.as_ref().is_some_and(|to| to.is_as(last)));
        Some(last).filter(|last| to_it && last.replaced.is_none())
    }

    pub(super) fn held(&self, hook: Hook, sha256: &str, config_digest: &str) -> Option<&Held> {
        let mut held = self.state.held.get(&hook)?.iter();
        held.find(|held| held.keeps_out(sha256, config_digest))
    }

    /// Writes down that a revision serves, with which config, and `why` the one before does not. An
    /// entry of the same policy and config moves to the end; the one that is there already served on,
    /// over a restart.
    pub(super) fn served(
        &mut self,
        hook: Hook,
        entry: Entry,
        config: &str,
        why: &str,
    ) -> io::Result<()> {
        let configs = &mut self.state.configs;
        configs.insert(entry.config_digest.clone(), config.to_owned());
        let number = self.next(hook).max(entry.number + 1) - 1;
        self.state.numbers.insert(hook, number);
        let entries = self.state.revisions.entry(hook).or_default();
        match entries.last_mut() {
            Some(last) if last.is_as(&entry) && last.replaced.is_none() => last.file = entry.file,
            _ => {
                end(entries.last_mut(), why);
                entries.retain(|e| !e.is_as(&entry));
                entries.push(entry);
            }
        }
        let surplus = entries.len().saturating_sub(self.keep);
        entries.drain(..surplus);
        let kept = self.state.revisions.values().flatten();
        let kept: BTreeSet<_> = kept.map(|e| &e.config_digest).collect();
        self.state.configs.retain(|digest, _| kept.contains(digest));
        self.save()?;
        self.sweep();
        Ok(())
    }

    /// The built-in policy took over.
    pub(super) fn ended(&mut self, hook: Hook, why: &str) -> io::Result<()> {
        let entries = self.state.revisions.entry(hook).or_default();
        end(entries.last_mut(), why);
        self.save()
    }

    pub(super) fn hold(&mut self, hook: Hook, held: Held) -> io::Result<()> {
        let all = self.state.held.entry(hook).or_default();
        let same = |h: &Held| (&h.sha256, &h.config_digest) == (&held.sha256, &held.config_digest);
        all.retain(|h| !same(h));
        all.push(held);
        self.save()
    }

    /// A promoted policy may serve again; tells what kept it out.
    pub(super) fn release(&mut self, sha256: &str) -> Vec<(Hook, Held)> {
        let mut released = Vec::new();
        for (&hook, held) in &mut self.state.held {
            released.extend(
                held.extract_if(.., |h| h.sha256 == sha256)
                    .map(|h| (hook, h)),
            );
        }
        if !released.is_empty()
            && let Err(error) = self.save()
        {
            tracing::error!(target: "stent::policy", "the policy history cannot be written: {error}");
        }
        released
    }

    /// Whether a kept revision of any hook is made from this source, or may soon be.
    pub(super) fn names(&self, sha256: &str) -> bool {
        let mut all = self.state.revisions.values().flatten();
        self.coming.as_deref() == Some(sha256) || all.any(|entry| entry.sha256 == sha256)
    }

    /// Keeps the source of what is being compiled, until this is called again.
    pub(super) fn expect(&mut self, sha256: Option<&str>) {
        self.coming = sha256.map(str::to_owned);
    }

    /// Forgets a source that will not serve, unless a revision names it.
    pub(super) fn discard(&self, sha256: &str) {
        if !self.names(sha256) && !sha256.is_empty() {
            // A source too many costs only room on disk.
            let source = self.source(sha256);
            let _ = fs::remove_file(folder::signature(&source));
            let _ = fs::remove_file(source);
        }
    }

    /// Sources that no revision names any more are removed.
    fn sweep(&self) {
        let named = |file: &str| {
            let file = file.trim_end_matches(".sig").strip_suffix(".wasm");
            file.is_some_and(|sha256| self.names(sha256))
        };
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

fn end(entry: Option<&mut Entry>, why: &str) {
    if let Some(entry) = entry.filter(|entry| entry.replaced.is_none()) {
        entry.until_ms = Some(now_ms());
        entry.replaced = Some(why.to_owned());
    }
}

/// What is kept out in `dir`, without opening it for writing.
pub(super) fn held(dir: &Path) -> BTreeMap<Hook, Vec<Held>> {
    let json = fs::read(dir.join("history.json")).unwrap_or_default();
    // A folder without a readable history keeps nothing out.
    let state: State = serde_json::from_slice(&json).unwrap_or_default();
    state.held
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The file is there whole, old or new, whenever the machine stops.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Two processes overlap while one takes over from the other.
    let half = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = File::create(&half)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&half, path)
}
