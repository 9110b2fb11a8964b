//! From a dropped file to the live generation. One thread does it all, one change after another:
//! it looks at the whole folder, lets files settle, takes those that changed through the stages,
//! and stores a new generation. Whatever fails on the way leaves the live one as it is. Only
//! compiling goes on beside it, in a child: what an operator asks for meanwhile is done at once.

mod admit;
mod change;
mod look;
mod promote;
mod rollback;
mod way;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use notify::RecommendedWatcher;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::compile::Job;
use super::folder::{Identity, Stamp};
use super::generation::Revision;
use super::history::{Entry, History};
use super::policies::{Core, PolicyError};
use super::settings::Settings;
use super::stage::{Rejection, Stage};
use super::types::{Hook, Listed, State};

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
        /// The generation in which the policy that tripped began to serve.
        since: u64,
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
    /// With the folder that it watches.
    watcher: Option<(Identity, RecommendedWatcher)>,
    /// It was said that the folder cannot be watched.
    unwatched: bool,
    /// The folder that the files lie in; another one under its name may be an empty mount point.
    folder: Option<Identity>,
    /// Why the folder says nothing about the files; stands until it does again.
    folder_trouble: Option<String>,
    /// Said by the breaker; stands until the file changes.
    tripped: BTreeMap<Hook, String>,
    /// Time of the last store.
    stored: Duration,
    waiting: Vec<Asked>,
    /// What was done for those who asked; they hear of it when the list tells it too.
    done: Vec<(Asked, Result<(), PolicyError>)>,
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
    /// A child makes its code.
    Compiling(Box<Work>),
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

/// What a file waits for while it is compiled.
struct Work {
    job: Job,
    sha256: String,
}

/// How often a compiling child is looked at.
const COMPILING: Duration = Duration::from_millis(5);

/// Who lets a revision serve, and what the audit log calls it.
#[derive(Clone, Copy)]
struct Cause {
    by: &'static str,
    what: &'static str,
}

/// Somebody put a file there.
const DROPPED: Cause = Cause {
    by: "file",
    what: "swapped",
};

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
        let (watcher, folder, folder_trouble) = (None, None, None);
        Self {
            core,
            settings,
            history,
            files,
            builtin,
            inbox,
            hints,
            watcher,
            unwatched: false,
            folder,
            folder_trouble,
            tripped,
            stored: Duration::ZERO,
            waiting: Vec::new(),
            done: Vec::new(),
        }
    }

    /// What serves from the start: the folder, then the history, then what is bundled.
    pub(super) fn first_look(&mut self) -> Result<(), PolicyError> {
        let unfit = self.load_builtin()?;
        let settle = std::mem::take(&mut self.settings.settle);
        self.look();
        self.look();
        while self.is_compiling() {
            std::thread::sleep(COMPILING);
            self.look();
        }
        self.settings.settle = settle;
        self.resume_rollbacks();
        self.settle_unfit(unfit)?;
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
            for (reply, result) in self.done.drain(..) {
                // Whoever asked may have left.
                let _ = reply.send(result);
            }
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
            Hint::Reload(reply) => {
                // Whoever asks may have changed what a file was rejected for.
                self.reconsider(|_| true);
                self.waiting.push(reply);
            }
            Hint::Rollback(hook, reply) => {
                let result = self.roll_back(hook, "api", "asked for");
                self.done.push((reply, result));
            }
            Hint::Promote(hook, reply) => {
                let result = self.promote(hook);
                self.done.push((reply, result));
            }
            Hint::Configure(hook, config, reply) => {
                let result = self.configure(hook, config);
                self.done.push((reply, result));
            }
            Hint::History(hook, reply) => drop(reply.send(self.history.revisions(hook).to_vec())),
            Hint::Tripped { hook, since } => self.trip(hook, since),
        }
    }

    /// Until the next look: soon while something settles.
    fn pause(&self) -> Duration {
        if self.is_compiling() {
            return COMPILING;
        }
        match self.is_busy()
            || self
                .files
                .values()
                .any(|f| matches!(f.state, FileState::Missing(_)))
        {
            true => (self.settings.settle / 3).max(Duration::from_millis(5)),
            false if self.settings.poll || self.folder_trouble.is_some() => {
                self.settings.rescan.min(Duration::from_secs(1))
            }
            false => self.settings.rescan,
        }
    }

    fn is_busy(&self) -> bool {
        let busy =
            |file: &Seen| matches!(file.state, FileState::Settling | FileState::Truncated(_));
        self.is_compiling() || self.files.values().any(busy)
    }

    fn is_compiling(&self) -> bool {
        let compiling = |file: &Seen| matches!(file.state, FileState::Compiling(_));
        self.files.values().any(compiling)
    }

    /// What readers see of files and troubles.
    fn publish(&self) {
        let mut alarms: Vec<String> = self.tripped.values().cloned().collect();
        alarms.extend(self.folder_trouble.clone());
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
            FileState::Compiling(_) => (
                State::Compiling,
                "",
                Stage::Compile,
                "it is compiled and tried; what served before serves meanwhile",
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
