//! Back to what served before, because somebody asked or because the live policy faults.

use std::path::Path;
use std::sync::Arc;

use super::{FileState, Reconciler, Way};
use crate::policy::checks;
use crate::policy::generation::{Origin, Revision};
use crate::policy::history::{Entry, Held};
use crate::policy::policies::PolicyError;
use crate::policy::signature;
use crate::policy::stage::{Rejection, Stage};
use crate::policy::types::Hook;

/// What takes over: a revision, and what the history says of it; none for the built-in policy.
struct Successor {
    revision: Arc<Revision>,
    entry: Option<Entry>,
    way: Way,
    /// Newer revisions that could not serve again, for the audit log.
    passed_over: String,
}

impl Reconciler {
    /// Back to the revision before the live one; the live one's file stays out until it changes.
    pub(super) fn roll_back(&mut self, hook: Hook, by: &str, why: &str) -> Result<(), PolicyError> {
        let live = self.core.live.load_full().of(hook).clone();
        if live.origin == Origin::Builtin {
            return Err(PolicyError::Change {
                hook,
                what: "rolled back",
                reason: "the built-in policy serves, and nothing served before it".into(),
            });
        }
        let next = self.successor(&live);
        let same_file = |to: &Entry| to.sha256 == live.sha256;
        let held = Held {
            sha256: live.sha256.clone(),
            config_digest: next
                .entry
                .as_ref()
                .is_some_and(same_file)
                .then(|| live.config_digest.clone()),
            reason: why.to_owned(),
            to: next.entry,
        };
        if let Err(error) = self.history.hold(hook, held) {
            // It holds until the next start all the same; a full disk must not keep a bad policy.
            tracing::error!(target: "stent::policy", "the policy history cannot be written: {error}");
        }
        let (name, version) = (&live.name, &live.version);
        let reason = format!("{name} {version} rolled back, {why}{}", next.passed_over);
        self.serve(vec![next.revision], by, "rolled-back", &reason, next.way);
        for file in self.files.values_mut() {
            let same =
                matches!(&file.state, FileState::Serving { sha256 } if *sha256 == live.sha256);
            if same {
                // Looked at again, it says itself that it was rolled back.
                file.state = FileState::Settling;
            }
        }
        Ok(())
    }

    /// The newest revision before this one that can serve again, or else the built-in policy.
    fn successor(&self, live: &Revision) -> Successor {
        let (hook, mut passed_over) = (live.hook, String::new());
        for entry in self.history.before(hook, &live.sha256, &live.config_digest) {
            let mut way = Way::of(&entry.file);
            match self.revive(hook, &entry, &mut way) {
                Ok(revision) => {
                    return Successor {
                        revision,
                        entry: Some(entry),
                        way,
                        passed_over,
                    };
                }
                Err(rejection) => {
                    passed_over += &self.cannot_return(hook, &entry, &rejection);
                    way.failed(&rejection, self.core.live.load().number);
                }
            }
        }
        Successor {
            revision: self.builtin[hook as usize].clone(),
            entry: None,
            way: Way::of(live.file().map_or(Path::new(&live.name), |file| file)),
            passed_over,
        }
    }

    fn cannot_return(&self, hook: Hook, entry: &Entry, rejection: &Rejection) -> String {
        let number = entry.number;
        tracing::error!(target: "stent::policy", %hook,
            "revision {number} of the {hook} policy cannot serve again: {rejection}");
        format!("; revision {number} cannot serve again: {rejection}")
    }

    /// A revision of the history with the config that it served with, asked again what a file is asked:
    /// pin and trusted keys may be others today.
    fn revive(&self, hook: Hook, entry: &Entry, way: &mut Way) -> Result<Arc<Revision>, Rejection> {
        way.enter("verify");
        let source = self.history.source(&entry.sha256);
        checks::pinned(&self.settings, &entry.sha256, &[hook])?;
        signature::verify_file(&source, &self.settings.trusted_keys)?;
        way.enter("compile");
        let (core, limits) = (&self.core, &self.settings.limits);
        let mut compiled =
            core.compiler
                .compile(&core.runtime.engine, &source, &entry.sha256, limits)?;
        compiled.hooks.retain(|&h| h == hook);
        let origin = Origin::History(entry.file.clone());
        let config = self.history.config(&entry.config_digest);
        let mut revisions = self.revisions(&compiled, origin, &entry.sha256, config, way)?;
        let revision = revisions.pop();
        revision.ok_or_else(|| Stage::Contract.reject(format!("does not serve the {hook} hook")))
    }

    /// After a restart a rollback holds, whether the file that it was about is still there or not.
    pub(super) fn resume_rollbacks(&mut self) {
        for hook in Hook::ALL {
            let live = self.core.live.load_full();
            if live.of(hook).origin != Origin::Builtin {
                continue;
            }
            let Some(entry) = self.history.rolled_back_to(hook).cloned() else {
                continue;
            };
            let mut way = Way::of(&entry.file);
            match self.revive(hook, &entry, &mut way) {
                Ok(revision) => self.serve(
                    vec![revision],
                    "file",
                    "rolled-back",
                    "as before the restart",
                    way,
                ),
                Err(rejection) => {
                    self.cannot_return(hook, &entry, &rejection);
                    way.failed(&rejection, live.number);
                }
            }
        }
    }

    /// Only the live revision can trip: an old one may still fault for requests that pin it. The
    /// same file with another config is another revision.
    pub(super) fn trip(&mut self, hook: Hook, since: u64) {
        let live = self.core.live.load_full();
        if live.of(hook).since != since || live.of(hook).origin == Origin::Builtin {
            return;
        }
        let breaker = &self.settings.breaker;
        let why = format!("{} faults within {:?}", breaker.faults, breaker.window);
        let name = live.of(hook).name.clone();
        match self.roll_back(hook, "breaker", &why) {
            Ok(()) => {
                let alarm = format!("the {hook} policy {name} was rolled back after {why}");
                tracing::error!(target: "stent::policy", %hook, "{alarm}");
                self.tripped.insert(hook, alarm);
            }
            Err(error) => tracing::error!(target: "stent::policy", %hook, "{error}"),
        }
    }
}
