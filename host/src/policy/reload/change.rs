//! Changes of the live generation: each builds a whole new one and stores it at once.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};

use super::promote::PROMOTED;
use super::{DROPPED, Reconciler, Way};
use crate::policy::audit::{self, Change};
use crate::policy::bundled;
use crate::policy::compile::Compiled;
use crate::policy::generation::{Generation, Origin, Revision, digest};
use crate::policy::history::{Entry, now_ms};
use crate::policy::policies::PolicyError;
use crate::policy::shadow::Shadow;
use crate::policy::stage::Stage;
use crate::policy::types::{Hook, ReloadFacts};

impl Reconciler {
    /// One store: requests that start from here on see it, those that run do not.
    /// `result` says on the trace what it was.
    pub(super) fn store(
        &mut self,
        revisions: [Arc<Revision>; 5],
        shadows: Vec<Arc<Shadow>>,
        mut way: Way,
        result: &'static str,
    ) {
        way.enter("swap");
        let live = self.core.live.load_full();
        let number = live.number + 1;
        // Also what served before and serves again, such as a built-in policy, begins now.
        let revisions = revisions.map(|revision| {
            let served = Arc::ptr_eq(&revision, live.of(revision.hook));
            match served || revision.since == number {
                true => revision,
                false => Arc::new(revision.again(number)),
            }
        });
        drop(live);
        let next = Generation::new(number, revisions, shadows, &self.core.gauge);
        // The last to serve since this generation is what it is about; most changes have one.
        let newest = next.revisions.iter().rfind(|r| r.since == number).cloned();
        let next = Arc::new(next);
        let start = Instant::now();
        let old = self.core.live.swap(next);
        self.stored = start.elapsed();
        old.replaced(way.drain(result, number, newest.as_deref()));
    }

    /// Lets revisions serve, and writes down that they do.
    pub(super) fn serve(
        &mut self,
        incoming: Vec<Arc<Revision>>,
        by: &str,
        what: &'static str,
        reason: &str,
        way: Way,
    ) {
        let live = self.core.live.load_full();
        let (mut revisions, mut shadows) = (live.revisions.clone(), live.shadows.clone());
        // Hooks that this file served before and serves no more fall back. A rollback or a config is
        // about one hook, and says nothing about the others of its file.
        let mut given_up = Vec::new();
        for slot in revisions.iter_mut().filter(|_| what == DROPPED.what) {
            let same_file = |r: &Arc<Revision>| r.file().is_some() && r.file() == slot.file();
            if incoming.iter().any(same_file) {
                *slot = self.builtin[slot.hook as usize].clone();
                if !incoming.iter().any(|r| r.hook == slot.hook) {
                    given_up.push(slot.clone());
                }
            }
        }
        for revision in &incoming {
            revisions[revision.hook as usize] = revision.clone();
        }
        if what == PROMOTED.what {
            let promoted = |s: &Shadow| incoming.iter().any(|r| r.sha256 == s.revision.sha256);
            shadows.retain(|shadow| !promoted(shadow));
        }
        self.store(revisions, shadows, way, what);
        let before = |hook| live.of(hook).sha256.clone();
        for revision in incoming {
            self.tripped.remove(&revision.hook);
            self.remember(&revision, &format!("{what}: {reason}"));
            self.changed(&revision, by, what, before(revision.hook), reason);
        }
        for builtin in &given_up {
            self.remember(builtin, &format!("removed: {reason}"));
            self.changed(builtin, by, "removed", before(builtin.hook), reason);
        }
        if !given_up.is_empty() {
            self.reconsider_rivals();
        }
    }

    /// `why` another one serves no more.
    fn remember(&mut self, revision: &Revision, why: &str) {
        let written = match revision.origin {
            Origin::Builtin => self.history.ended(revision.hook, why),
            _ => {
                let template = revision.pool.as_ref().map(|pool| &pool.template);
                let config = template.map_or("{}", |template| template.config());
                let history = &mut self.history;
                history.served(revision.hook, entry(revision), config, why)
            }
        };
        if let Err(error) = written {
            tracing::error!(target: "stent::policy", "the policy history cannot be written: {error}");
        }
        let live = self.core.live.load();
        let serving = live.revisions.iter().chain(&self.builtin);
        let serving: Vec<_> = serving
            .chain(live.shadows.iter().map(|shadow| &shadow.revision))
            .map(|revision| revision.sha256.as_str())
            .collect();
        let wanted = |sha256: &str| self.history.names(sha256) || serving.contains(&sha256);
        self.core.compiler.sweep(wanted);
    }

    pub(super) fn changed(
        &self,
        to: &Revision,
        by: &str,
        what: &'static str,
        from: String,
        reason: &str,
    ) {
        let (hook, generation) = (to.hook, self.core.live.load().number);
        tracing::info!(target: "stent::policy", %hook, policy = to.name, version = to.version,
            sha256 = to.sha256, generation, "{hook} policy {what}: {} {}, {reason}", to.name, to.version);
        let change = Change {
            at_ms: now_ms(),
            generation,
            hook,
            by: by.to_owned(),
            what: what.to_owned(),
            from,
            to: to.sha256.clone(),
            reason: reason.to_owned(),
        };
        if let Err(error) = audit::write(&self.core.dir, &change) {
            tracing::error!(target: "stent::policy", "the audit log cannot be written: {error}");
        }
        let facts = ReloadFacts {
            hook: Some(hook),
            result: what,
            stage: "",
            generation,
            stored: self.stored,
        };
        self.core.shared.observer.reloaded(&facts);
    }

    /// The file is gone for good: what it served falls back to the built-in policy. A revision that
    /// a rollback brought back came from the history, and stays.
    pub(super) fn retire(&mut self, path: &Path) {
        let live = self.core.live.load_full();
        let from_here = |r: &Revision| matches!(&r.origin, Origin::File(file) if file == path);
        let reason = format!("{} was deleted", path.display());
        let (gone, shadows): (Vec<_>, Vec<_>) = live
            .shadows
            .iter()
            .cloned()
            .partition(|shadow| from_here(&shadow.revision));
        if !gone.is_empty() {
            self.store(live.revisions.clone(), shadows, Way::of(path), "unshadowed");
            for shadow in gone {
                self.changed(
                    &shadow.revision,
                    "file",
                    "unshadowed",
                    String::new(),
                    &reason,
                );
            }
        }
        let back: Vec<_> = live
            .revisions
            .iter()
            .filter(|r| from_here(r))
            .map(|r| self.builtin[r.hook as usize].clone())
            .collect();
        if !back.is_empty() {
            self.serve(back, "file", "removed", &reason, Way::of(path));
        }
        self.reconsider_rivals();
    }

    /// The same component with another config.
    pub(super) fn configure(
        &mut self,
        hook: Hook,
        config: Map<String, Value>,
    ) -> Result<(), PolicyError> {
        let fail = |reason: String| PolicyError::Change {
            hook,
            what: "configured",
            reason,
        };
        let live = self.core.live.load_full().of(hook).clone();
        let Some(component) = live.component.clone() else {
            return Err(fail("native code serves it, which takes no config".into()));
        };
        let before = std::mem::replace(&mut self.settings_of(hook).config, config);
        let compiled = Compiled {
            component,
            hooks: vec![hook],
        };
        let mut way = Way::of(live.file().map_or(Path::new(&live.name), |file| file));
        let file = live.file().cloned().unwrap_or_default();
        let tried = self
            .revisions(&compiled, live.origin.clone(), &live.sha256, None, &mut way)
            .and_then(|revisions| {
                way.enter("cases");
                self.pass_cases(&revisions, &file)?;
                Ok(revisions)
            });
        match tried {
            Ok(revisions) => {
                if live.origin == Origin::Builtin {
                    self.builtin[hook as usize] = revisions[0].clone();
                }
                self.serve(revisions, "api", "configured", "another config", way);
                Ok(())
            }
            Err(rejection) => {
                self.settings_of(hook).config = before;
                way.failed(&rejection, self.core.live.load().number);
                Err(fail(rejection.to_string()))
            }
        }
    }

    fn settings_of(&mut self, hook: Hook) -> &mut crate::policy::settings::HookSettings {
        let settings = &mut self.settings;
        match hook {
            Hook::Guard => &mut settings.guard,
            Hook::Trim => &mut settings.trim,
            Hook::Prompt => &mut settings.prompt,
            Hook::Cache => &mut settings.cache,
            Hook::Filter => &mut settings.filter,
        }
    }

    /// The bundled policies, with the operator's config. One that refuses it keeps the gateway from
    /// starting: serving something else than configured would be a surprise. Unless the config is
    /// meant for a file: then it stands by with its defaults. Returns what has to be settled by
    /// [`Reconciler::settle_unfit`] when it is known which files serve.
    pub(super) fn load_builtin(&mut self) -> Result<Vec<(Hook, PolicyError)>, PolicyError> {
        let mut unfit = Vec::new();
        for hook in Hook::ALL {
            let Some((name, source)) = bundled::chosen(&self.settings, hook)? else {
                continue;
            };
            let sha256 = digest(source);
            let engine = &self.core.runtime.engine;
            let loaded = self.core.compiler.compile_trusted(engine, source, &sha256);
            let revision = loaded.and_then(|mut compiled| {
                compiled.hooks.retain(|&h| h == hook);
                let with = |config| {
                    let way = &mut Way::untraced();
                    self.revisions(&compiled, Origin::Builtin, &sha256, config, way)
                };
                match with(None) {
                    Err(refused)
                        if refused.stage == Stage::Configure && self.may_be_replaced(hook) =>
                    {
                        unfit.push((hook, bundled::unfit(hook, name, &refused)));
                        with(Some("{}"))
                    }
                    done => done,
                }
            });
            match revision.map(|mut found| found.pop()) {
                Ok(Some(revision)) => self.builtin[hook as usize] = revision,
                Ok(None) => return Err(bundled::elsewhere(hook, name)),
                Err(rejection) => return Err(bundled::unfit(hook, name, &rejection)),
            }
        }
        let builtin = self.builtin.clone();
        self.store(builtin, Vec::new(), Way::untraced(), "");
        Ok(unfit)
    }

    /// Whether a file or an older revision may take the hook when the gateway starts.
    fn may_be_replaced(&self, hook: Hook) -> bool {
        let files = crate::policy::folder::scan(&self.settings.dir);
        files.is_ok_and(|files| !files.is_empty()) || self.history.rolled_back_to(hook).is_some()
    }

    /// The config was not for the bundled policy where something else serves.
    pub(super) fn settle_unfit(&self, unfit: Vec<(Hook, PolicyError)>) -> Result<(), PolicyError> {
        let live = self.core.live.load();
        for (hook, error) in unfit {
            let serving = live.of(hook);
            if serving.origin == Origin::Builtin {
                return Err(error);
            }
            tracing::warn!(target: "stent::policy", %hook,
                "{error}; it has its defaults, should {} go", serving.name);
        }
        Ok(())
    }
}

fn entry(revision: &Revision) -> Entry {
    Entry {
        number: revision.number,
        sha256: revision.sha256.clone(),
        name: revision.name.clone(),
        version: revision.version.clone(),
        file: revision.file().cloned().unwrap_or_default(),
        config_digest: revision.config_digest.clone(),
        at_ms: now_ms(),
        until_ms: None,
        replaced: None,
    }
}
