//! From a dropped file to the live generation. One thread does it all, one change after another:
//! it looks at the whole folder, lets files settle, takes those that changed through the stages,
//! and stores a new generation. Whatever fails on the way leaves the live one as it is.

mod admit;
mod change;
mod way;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use notify::RecommendedWatcher;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::folder::{self, Stamp};
use super::generation::Revision;
use super::history::{Entry, History};
use super::policies::{Core, PolicyError};
use super::settings::Settings;
use super::stage::{Rejection, Stage};
use super::types::{Hook, Listed, ReloadFacts, State};

pub(super) use way::{Draining, Way};

pub(super) type Asked = oneshot::Sender<Result<(), PolicyError>>;

/// What wakes the reconciler.
pub(super) enum Hint {
    /// Something may have changed in the folder.
    Look,
    /// The same, and somebody waits for the outcome.
    Reload(Asked),
    Rollback(Hook, Asked),
    Promote(Hook, Asked),
    Configure(Hook, Map<String, Value>, Asked),
    History(Hook, oneshot::Sender<Vec<Entry>>),
    /// The breaker of this hook's policy tripped.
    Tripped {
        hook: Hook,
        sha256: String,
    },
    Stop,
}

pub(super) struct Reconciler {
    core: Arc<Core>,
    /// The hooks' sections may change while the process runs; limits may not.
    settings: Settings,
    history: History,
    files: BTreeMap<PathBuf, Seen>,
    builtin: [Arc<Revision>; 5],
    inbox: mpsc::Receiver<Hint>,
    hints: mpsc::Sender<Hint>,
    watcher: Option<RecommendedWatcher>,
    folder_gone: bool,
    /// Said by the breaker; stands until the file changes.
    tripped: BTreeMap<Hook, String>,
    waiting: Vec<Asked>,
}

/// A file of the folder.
struct Seen {
    stamp: Stamp,
    /// When the stamp was first seen.
    since: Instant,
    state: FileState,
    /// Until it is known what becomes of the file.
    way: Option<Way>,
}

enum FileState {
    Settling,
    /// Ended too early to be whole; may still grow.
    Truncated(Rejection),
    Serving {
        sha256: String,
    },
    Rejected {
        sha256: String,
        rejection: Rejection,
    },
    /// Gone from the folder since then.
    Missing(Instant),
}

/// How long a file that ends too early is given to grow.
const GROWING: Duration = Duration::from_secs(2);

impl Reconciler {
    pub(super) fn new(
        core: Arc<Core>,
        history: History,
        inbox: mpsc::Receiver<Hint>,
        hints: mpsc::Sender<Hint>,
    ) -> Self {
        let settings = (*core.shared.settings).clone();
        let builtin = core.live.load().revisions.clone();
        let (files, tripped) = (BTreeMap::new(), BTreeMap::new());
        let (watcher, folder_gone, waiting) = (None, false, Vec::new());
        Self {
            core,
            settings,
            history,
            files,
            builtin,
            inbox,
            hints,
            watcher,
            folder_gone,
            tripped,
            waiting,
        }
    }

    /// What serves from the start: the folder, then the history, then what is bundled.
    pub(super) fn first_look(&mut self) -> Result<(), PolicyError> {
        self.load_builtin()?;
        let settle = std::mem::take(&mut self.settings.settle);
        self.look();
        self.look();
        self.settings.settle = settle;
        self.resume_rollbacks();
        self.publish();
        Ok(())
    }

    pub(super) fn run(mut self) {
        loop {
            match self.inbox.recv_timeout(self.pause()) {
                Ok(Hint::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Ok(hint) => self.take(hint),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            // One look answers all hints that came meanwhile.
            while let Ok(hint) = self.inbox.try_recv() {
                match hint {
                    Hint::Stop => return,
                    hint => self.take(hint),
                }
            }
            self.look();
            self.publish();
            if !self.is_busy() {
                for reply in self.waiting.drain(..) {
                    // Whoever asked may have left.
                    let _ = reply.send(Ok(()));
                }
            }
        }
    }

    fn take(&mut self, hint: Hint) {
        // Whoever asked may have left; a reply that cannot be sent is nobody's loss.
        match hint {
            Hint::Look | Hint::Stop => {}
            Hint::Reload(reply) => self.waiting.push(reply),
            Hint::Rollback(hook, reply) => {
                drop(reply.send(self.roll_back(hook, "api", "asked for")))
            }
            Hint::Promote(hook, reply) => {
                // The renamed file goes through the stages like any other before this is answered.
                match self.promote(hook) {
                    Ok(()) => self.waiting.push(reply),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Hint::Configure(hook, config, reply) => drop(reply.send(self.configure(hook, config))),
            Hint::History(hook, reply) => drop(reply.send(self.history.revisions(hook).to_vec())),
            Hint::Tripped { hook, sha256 } => self.trip(hook, &sha256),
        }
    }

    /// Until the next look: soon while something settles.
    fn pause(&self) -> Duration {
        match self.is_busy()
            || self
                .files
                .values()
                .any(|f| matches!(f.state, FileState::Missing(_)))
        {
            true => (self.settings.settle / 3).max(Duration::from_millis(5)),
            false if self.settings.poll || self.folder_gone => {
                self.settings.rescan.min(Duration::from_secs(1))
            }
            false => self.settings.rescan,
        }
    }

    fn is_busy(&self) -> bool {
        let busy =
            |file: &Seen| matches!(file.state, FileState::Settling | FileState::Truncated(_));
        self.files.values().any(busy)
    }

    /// Compares the folder with what is known of it.
    fn look(&mut self) {
        let dir = self.settings.dir.clone();
        let found = match folder::scan(&dir) {
            Ok(found) => found,
            Err(error) => return self.folder_lost(&error),
        };
        if std::mem::take(&mut self.folder_gone) {
            // A folder that came back is another one to the watcher.
            self.watcher = None;
        }
        if self.watcher.is_none() && !self.settings.poll {
            match folder::watch(&dir, self.hints.clone()) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => tracing::warn!(target: "stent::policy",
                    "{} cannot be watched, it is looked at every {:?}: {error}",
                    dir.display(), self.settings.rescan),
            }
        }
        let now = Instant::now();
        for (path, stamp) in &found {
            match self.files.get_mut(path) {
                Some(seen) if seen.stamp == *stamp => {
                    if let FileState::Missing(_) = seen.state {
                        (seen.since, seen.state) = (now, FileState::Settling);
                    }
                }
                seen => {
                    // A file that goes on growing is on one way for all that time.
                    let way = seen.and_then(|seen| seen.way.take());
                    let fresh = Seen {
                        stamp: *stamp,
                        since: now,
                        state: FileState::Settling,
                        way: Some(way.unwrap_or_else(|| Way::settling(path))),
                    };
                    self.files.insert(path.clone(), fresh);
                }
            }
        }
        for (path, seen) in &mut self.files {
            let missing = !found.iter().any(|(there, _)| there == path);
            if missing && !matches!(seen.state, FileState::Missing(_)) {
                seen.state = FileState::Missing(now);
            }
        }
        self.advance(now);
    }

    /// Takes settled files through the stages, and lets missing ones go.
    fn advance(&mut self, now: Instant) {
        let settle = self.settings.settle;
        let ripe: Vec<PathBuf> = self
            .files
            .iter()
            .filter(|(_, file)| match file.state {
                FileState::Settling => now.duration_since(file.since) >= settle,
                _ => false,
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in ripe {
            let Some(before) = self.files.get(&path).map(|file| file.stamp) else {
                continue;
            };
            let state = self.admit(&path, before);
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

    /// Not a deletion: an unmounted folder says nothing about its files.
    fn folder_lost(&mut self, error: &std::io::Error) {
        if !self.folder_gone {
            tracing::error!(target: "stent::policy",
                "policies.dir = {}: {error}; what serves goes on serving", self.settings.dir.display());
        }
        self.folder_gone = true;
        self.watcher = None;
    }

    fn rejected(&self, path: &std::path::Path, rejection: &Rejection) {
        let stage = rejection.stage.as_str();
        tracing::error!(target: "stent::policy", file = %path.display(), stage,
            "{}: {rejection}", path.display());
        let generation = self.core.live.load().number;
        let facts = ReloadFacts {
            hook: rejection.hook,
            result: "rejected",
            stage,
            generation,
        };
        self.core.shared.observer.reloaded(&facts);
    }

    /// What readers see of files and troubles.
    fn publish(&self) {
        let mut alarms: Vec<String> = self.tripped.values().cloned().collect();
        if self.folder_gone {
            let dir = self.settings.dir.display();
            alarms.push(format!(
                "policies.dir = {dir} cannot be read; what serves goes on serving"
            ));
        }
        let files = self
            .files
            .iter()
            .filter_map(|(path, seen)| seen.listed(path))
            .collect();
        *self.core.notices() = super::policies::Notices { files, alarms };
    }
}

impl Seen {
    fn listed(&self, path: &std::path::Path) -> Option<Listed> {
        let hook = match &self.state {
            FileState::Truncated(r) | FileState::Rejected { rejection: r, .. } => r.hook,
            _ => None,
        };
        let (state, sha256, stage, reason) = match &self.state {
            FileState::Serving { .. } | FileState::Missing(_) => return None,
            FileState::Settling => (
                State::Pending,
                "",
                Stage::Settle,
                "its size or time just changed",
            ),
            FileState::Truncated(r) => (State::Pending, "", Stage::Settle, r.reason.as_str()),
            FileState::Rejected { sha256, rejection } => (
                State::Rejected,
                sha256.as_str(),
                rejection.stage,
                rejection.reason.as_str(),
            ),
        };
        Some(Listed {
            hook,
            name: path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            version: String::new(),
            sha256: sha256.to_owned(),
            revision: 0,
            generation: 0,
            state,
            file: Some(path.to_owned()),
            stage: Some(stage.as_str().to_owned()),
            reason: Some(reason.to_owned()),
        })
    }
}
