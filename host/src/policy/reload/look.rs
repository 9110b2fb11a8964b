//! Looking at the folder: what came, changed, settled and went. Looked at whole each time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{DROPPED, FileState, Reconciler, Seen, Way};
use crate::policy::folder::{self, Identity, Stamp};
use crate::policy::generation::{Origin, digest};
use crate::policy::stage::{Rejection, Stage};
use crate::policy::types::{Hook, ReloadFacts};

/// How long a file that ends too early is given to grow.
pub(super) const GROWING: Duration = Duration::from_secs(2);

impl Reconciler {
    /// Compares the folder with what is known of it.
    pub(super) fn look(&mut self) {
        let dir = self.settings.dir.clone();
        let seen = folder::identity(&dir).and_then(|it| Ok((it, folder::scan(&dir)?)));
        let (identity, found) = match seen {
            Ok(seen) => seen,
            Err(error) => {
                self.watcher = None;
                return self.folder_lost("cannot be read", &error.to_string());
            }
        };
        self.watch(identity);
        let replaced = self.folder.is_some_and(|known| known != identity);
        if replaced && found.is_empty() && !self.files.is_empty() {
            // What lies under a mount point is a folder as well, and nobody deleted anything in it.
            return self.folder_lost(
                "is another folder than before and holds no policy",
                "perhaps what was mounted there is not any more",
            );
        }
        let returned = self.folder_trouble.take().is_some() || replaced;
        self.folder = Some(identity);
        let now = Instant::now();
        self.compare(&found, now);
        self.note_missing(&found, now, returned);
        self.advance(now);
    }

    /// A folder that was replaced or came back is another one to the watcher.
    fn watch(&mut self, identity: Identity) {
        let watched = |(known, _): &(Identity, _)| *known == identity;
        if self.settings.poll || self.watcher.as_ref().is_some_and(watched) {
            return;
        }
        self.watcher = None;
        let dir = &self.settings.dir;
        match folder::watch(dir, self.hints.clone()) {
            Ok(watcher) => {
                self.watcher = Some((identity, watcher));
                self.unwatched = false;
            }
            // Tried again at each look, and said once.
            Err(_) if self.unwatched => {}
            Err(error) => {
                self.unwatched = true;
                tracing::warn!(target: "stent::policy",
                    "{} cannot be watched, it is looked at every {:?}: {error}",
                    dir.display(), self.settings.rescan);
            }
        }
    }

    fn compare(&mut self, found: &[(PathBuf, Stamp)], now: Instant) {
        for (path, stamp) in found {
            match self.files.get_mut(path) {
                Some(seen) if seen.stamp == *stamp => {
                    if let FileState::Missing(_) = seen.state {
                        (seen.since, seen.state) = (now, FileState::Settling);
                    }
                }
                seen => {
                    // A file that goes on growing is on one way for all that time.
                    let way = seen.and_then(|seen| seen.way.take());
                    let mut way = way.unwrap_or_else(|| Way::settling(path));
                    way.enter("settle");
                    // A child that compiles what it was ends here.
                    let fresh = Seen {
                        stamp: *stamp,
                        since: now,
                        state: FileState::Settling,
                        way: Some(way),
                    };
                    self.files.insert(path.clone(), fresh);
                }
            }
        }
    }

    /// `returned`: the folder was away, and what is not back yet gets its time from now on.
    fn note_missing(&mut self, found: &[(PathBuf, Stamp)], now: Instant, returned: bool) {
        for (path, seen) in &mut self.files {
            let missing = !found.iter().any(|(there, _)| there == path);
            let known = matches!(seen.state, FileState::Missing(_));
            if missing && (returned || !known) {
                seen.state = FileState::Missing(now);
            }
        }
    }

    /// Takes settled files through the stages, and lets missing ones go.
    fn advance(&mut self, now: Instant) {
        self.go_on_compiling();
        for path in self.ripe(now) {
            // One compiler at a time: each may take all the memory that compiling is allowed. And
            // in order: who comes first gets the hook.
            if self.is_compiling() {
                break;
            }
            let Some(before) = self.files.get(&path).map(|file| file.stamp) else {
                continue;
            };
            let state = self.admit(&path, before, DROPPED);
            // What changed while it compiled settles again; the stale result is dropped.
            if let Some(file) = self.files.get_mut(&path) {
                file.state = state;
            }
        }
        self.give_up_waiting(now);
        let grace = self.settings.grace;
        let gone: Vec<PathBuf> = self
            .files
            .iter()
            .filter(|(_, file)| match file.state {
                FileState::Missing(since) => now.duration_since(since) >= grace,
                _ => false,
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            let file = self.files.remove(&path);
            if let Some(way) = file.and_then(|file| file.way) {
                way.ended("gone", self.core.live.load().number);
            }
            self.retire(&path);
        }
    }

    /// The file whose code is being made goes on when that is there.
    fn go_on_compiling(&mut self) {
        let compiling = |file: &Seen| matches!(file.state, FileState::Compiling(_));
        let mut files = self.files.iter_mut();
        let Some((path, file)) = files.find(|(_, file)| compiling(file)) else {
            return;
        };
        let path = path.clone();
        let state = std::mem::replace(&mut file.state, FileState::Settling);
        let state = match state {
            FileState::Compiling(work) => self.go_on(&path, work, DROPPED),
            other => other,
        };
        if let Some(file) = self.files.get_mut(&path) {
            file.state = state;
        }
    }

    /// Settled files. Where two claim one hook the first one gets it: what serves, or served last.
    fn ripe(&self, now: Instant) -> Vec<PathBuf> {
        let settled = |(path, file): (&PathBuf, &Seen)| {
            let settled = now.duration_since(file.since) >= self.settings.settle;
            let ripe = settled && matches!(file.state, FileState::Settling);
            ripe.then(|| path.clone())
        };
        let mut ripe: Vec<PathBuf> = self.files.iter().filter_map(settled).collect();
        if ripe.len() > 1 {
            ripe.sort_by_cached_key(|path| (self.rank(path), path.clone()));
        }
        ripe
    }

    fn rank(&self, path: &Path) -> u8 {
        let live = self.core.live.load();
        let serves = |origin: &Origin| matches!(origin, Origin::File(file) if file == path);
        if live.revisions.iter().any(|r| serves(&r.origin)) {
            return 0;
        }
        let last = || {
            Hook::ALL
                .into_iter()
                .filter_map(|hook| self.history.revisions(hook).last())
        };
        // What cannot be read, or is too big to be, is rejected later, with the reason.
        let most = self.settings.limits.file_bytes;
        let len = fs::metadata(path).map_or(u64::MAX, |meta| meta.len());
        let bytes = Some(path).filter(|_| len <= most).map(fs::read);
        let sha256 = bytes.and_then(Result::ok).map(|bytes| digest(&bytes));
        match sha256 {
            Some(sha256) if last().any(|entry| entry.sha256 == sha256) => 1,
            _ if last().any(|entry| entry.file == path) => 2,
            _ => 3,
        }
    }

    /// What ended too early and has not grown for long is not being written.
    fn give_up_waiting(&mut self, now: Instant) {
        let mut rejected = Vec::new();
        for (path, file) in &mut self.files {
            if let FileState::Truncated(rejection) = &file.state
                && now.duration_since(file.since) >= GROWING
            {
                rejected.push((path.clone(), rejection.clone(), file.way.take()));
                file.state = FileState::Rejected {
                    sha256: String::new(),
                    rejection: rejection.clone(),
                };
            }
        }
        for (path, rejection, way) in rejected {
            self.rejected(&path, &rejection);
            if let Some(way) = way {
                way.failed(&rejection, self.core.live.load().number);
            }
        }
    }

    /// Rejected files are looked into again.
    pub(super) fn reconsider(&mut self, which: impl Fn(&Rejection) -> bool) {
        for file in self.files.values_mut() {
            if let FileState::Rejected { rejection, .. } = &file.state
                && which(rejection)
            {
                file.state = FileState::Settling;
            }
        }
    }

    /// A rejected newcomer for a hook that was given up may have its turn now.
    pub(super) fn reconsider_rivals(&mut self) {
        self.reconsider(|rejection| rejection.stage == Stage::Swap);
    }

    /// Not a deletion: an unmounted folder says nothing about its files.
    fn folder_lost(&mut self, what: &str, why: &str) {
        let dir = self.settings.dir.display();
        let alarm = format!("policies.dir = {dir} {what}; what serves goes on serving");
        if self.folder_trouble.as_ref() != Some(&alarm) {
            tracing::error!(target: "stent::policy", "{alarm} ({why})");
        }
        self.folder_trouble = Some(alarm);
    }

    pub(super) fn rejected(&self, path: &Path, rejection: &Rejection) {
        let stage = rejection.stage.as_str();
        tracing::error!(target: "stent::policy", file = %path.display(), stage,
            "{}: {rejection}", path.display());
        let generation = self.core.live.load().number;
        let facts = ReloadFacts {
            hook: rejection.hook,
            result: "rejected",
            stage,
            generation,
            stored: Duration::ZERO,
        };
        self.core.shared.observer.reloaded(&facts);
    }
}
