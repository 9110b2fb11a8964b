//! Changes of the live generation: each builds a whole new one and stores it at once.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{FileState, Reconciler, Way};
use crate::policy::bundled;
use crate::policy::compile::Compiled;
use crate::policy::folder::is_shadow;
use crate::policy::generation::{Generation, Origin, Revision, digest};
use crate::policy::history::{Change, Entry, Held, now_ms};
use crate::policy::policies::PolicyError;
use crate::policy::shadow::Shadow;
use crate::policy::stage::Rejection;
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
        let old = self.core.live.swap(Arc::new(next));
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
        let mut revisions = live.revisions.clone();
        // Hooks that this file served before and serves no more fall back. A rollback or a config is
        // about one hook, and says nothing about the others of its file.
        for slot in revisions.iter_mut().filter(|_| what == "swapped") {
            let same_file = |r: &Arc<Revision>| r.file().is_some() && r.file() == slot.file();
            if incoming.iter().any(same_file) {
                *slot = self.builtin[slot.hook as usize].clone();
            }
        }
        for revision in &incoming {
            revisions[revision.hook as usize] = revision.clone();
        }
        self.store(revisions, live.shadows.clone(), way, what);
        for revision in incoming {
            self.tripped.remove(&revision.hook);
            let before = live.of(revision.hook).sha256.clone();
            if revision.origin != Origin::Builtin {
                self.remember(&revision);
            }
            self.changed(&revision, by, what, before, reason);
        }
    }

    fn remember(&mut self, revision: &Revision) {
        let entry = Entry {
            number: revision.number,
            sha256: revision.sha256.clone(),
            name: revision.name.clone(),
            version: revision.version.clone(),
            file: revision.file().cloned().unwrap_or_default(),
            config_digest: revision.config_digest.clone(),
            at_ms: now_ms(),
        };
        if let Err(error) = self.history.served(revision.hook, entry) {
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

    fn changed(&self, to: &Revision, by: &str, what: &'static str, from: String, reason: &str) {
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
        if let Err(error) = self.history.audit(&change) {
            tracing::error!(target: "stent::policy", "the audit log cannot be written: {error}");
        }
        let facts = ReloadFacts {
            hook: Some(hook),
            result: what,
            stage: "",
            generation,
        };
        self.core.shared.observer.reloaded(&facts);
    }

    /// The file is gone for good: what it served falls back to the built-in policy.
    pub(super) fn retire(&mut self, path: &Path) {
        let live = self.core.live.load_full();
        let from_here = |r: &Revision| r.file().is_some_and(|file| file == path);
        let mut shadows = live.shadows.clone();
        shadows.retain(|shadow| !from_here(&shadow.revision));
        let back: Vec<_> = live
            .revisions
            .iter()
            .filter(|r| from_here(r))
            .map(|r| self.builtin[r.hook as usize].clone())
            .collect();
        if shadows.len() != live.shadows.len() {
            self.store(live.revisions.clone(), shadows, Way::of(path), "removed");
        }
        if !back.is_empty() {
            self.serve(
                back,
                "file",
                "removed",
                &format!("{} was deleted", path.display()),
                Way::of(path),
            );
        }
        // A rejected newcomer for the same hook may have its turn now.
        for file in self.files.values_mut() {
            if let FileState::Rejected { rejection, .. } = &file.state
                && rejection.stage == crate::policy::stage::Stage::Swap
            {
                file.state = FileState::Settling;
            }
        }
    }

    /// Back to the revision before the live one; the live one's file stays out until it changes.
    pub(super) fn roll_back(&mut self, hook: Hook, by: &str, why: &str) -> Result<(), PolicyError> {
        let fail = |reason: String| PolicyError::Change {
            hook,
            what: "rolled back",
            reason,
        };
        let live = self.core.live.load_full().of(hook).clone();
        if live.origin == Origin::Builtin {
            return Err(fail(
                "the built-in policy serves, and nothing served before it".into(),
            ));
        }
        let before = self.history.before(hook, &live.sha256);
        let file = live.file().cloned().unwrap_or_default();
        let mut way = Way::of(&file);
        let revision = match &before {
            Some(entry) => match self.revive(hook, entry, &mut way) {
                Ok(revision) => revision,
                Err(rejection) => {
                    way.failed(&rejection, self.core.live.load().number);
                    return Err(fail(rejection.to_string()));
                }
            },
            None => self.builtin[hook as usize].clone(),
        };
        let held = Held {
            sha256: live.sha256.clone(),
            reason: why.to_owned(),
            to: before,
        };
        self.history
            .hold(hook, held)
            .map_err(|e| fail(e.to_string()))?;
        let reason = format!("{} {} rolled back, {why}", live.name, live.version);
        self.serve(vec![revision], by, "rolled-back", &reason, way);
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

    /// A revision of the history, probed again: its config may be another one today.
    fn revive(&self, hook: Hook, entry: &Entry, way: &mut Way) -> Result<Arc<Revision>, Rejection> {
        way.enter("compile");
        let source = self.history.source(&entry.sha256);
        let (core, limits) = (&self.core, &self.settings.limits);
        let mut compiled =
            core.compiler
                .compile(&core.runtime.engine, &source, &entry.sha256, limits)?;
        compiled.hooks.retain(|&h| h == hook);
        let origin = Origin::History(entry.file.clone());
        let mut revisions = self.revisions(&compiled, origin, &entry.sha256, way)?;
        revisions.pop().ok_or_else(|| {
            crate::policy::stage::Stage::Contract.reject(format!("does not serve the {hook} hook"))
        })
    }

    /// After a restart a rollback holds: the file is refused, and what took over serves.
    pub(super) fn resume_rollbacks(&mut self) {
        for hook in Hook::ALL {
            let live = self.core.live.load_full();
            if live.of(hook).origin != Origin::Builtin {
                continue;
            }
            let refused = self.files.values().find_map(|file| match &file.state {
                FileState::Rejected { sha256, .. } => self.history.held(hook, sha256).cloned(),
                _ => None,
            });
            let Some(entry) = refused.and_then(|held| held.to) else {
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
                Err(error) => {
                    tracing::error!(target: "stent::policy", %hook,
                        "revision {} of the {hook} policy cannot serve again: {error}", entry.number);
                    way.failed(&error, live.number);
                }
            }
        }
    }

    /// Only the live revision can trip: an old one may still fault for requests that pin it.
    pub(super) fn trip(&mut self, hook: Hook, sha256: &str) {
        let live = self.core.live.load_full();
        if live.of(hook).sha256 != sha256 || live.of(hook).origin == Origin::Builtin {
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

    /// Renames the shadow's file; the next look does the rest.
    pub(super) fn promote(&mut self, hook: Hook) -> Result<(), PolicyError> {
        let fail = |reason: String| PolicyError::Change {
            hook,
            what: "promoted",
            reason,
        };
        let live = self.core.live.load_full();
        let shadow = live
            .shadow(hook)
            .ok_or_else(|| fail("it has no shadow".into()))?;
        let file = shadow
            .revision
            .file()
            .cloned()
            .filter(|file| is_shadow(file));
        let file = file.ok_or_else(|| fail("its shadow is no file NAME.shadow.wasm".into()))?;
        let name = file.to_string_lossy().replace(".shadow.wasm", ".wasm");
        let moved = |from: &Path, to: &str| {
            fs::rename(from, to)
                .map_err(|e| fail(format!("{} cannot be renamed to {to}: {e}", from.display())))
        };
        if let Origin::File(old) = &live.of(hook).origin
            && old.exists()
        {
            moved(old, &format!("{}.retired", old.display()))?;
            self.files.remove(old);
        }
        moved(&file, &name)?;
        self.files.remove(&file);
        self.history
            .release(hook, &shadow.revision.sha256)
            .map_err(|e| fail(e.to_string()))?;
        let mut shadows = live.shadows.clone();
        shadows.retain(|s| s.revision.file() != Some(&file));
        self.store(live.revisions.clone(), shadows, Way::untraced(), "");
        Ok(())
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
        match self.revisions(&compiled, live.origin.clone(), &live.sha256, &mut way) {
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

    /// The bundled policies, with the operator's config. One that refuses it keeps the gateway
    /// from starting: serving something else than configured would be a surprise.
    pub(super) fn load_builtin(&mut self) -> Result<(), PolicyError> {
        for hook in Hook::ALL {
            let Some((name, source)) = bundled::chosen(&self.settings, hook)? else {
                continue;
            };
            let sha256 = digest(source);
            let engine = &self.core.runtime.engine;
            let loaded = self.core.compiler.compile_trusted(engine, source, &sha256);
            let revision = loaded.and_then(|mut compiled| {
                compiled.hooks.retain(|&h| h == hook);
                self.revisions(&compiled, Origin::Builtin, &sha256, &mut Way::untraced())
            });
            match revision.map(|mut found| found.pop()) {
                Ok(Some(revision)) => self.builtin[hook as usize] = revision,
                Ok(None) => return Err(bundled::elsewhere(hook, name)),
                Err(rejection) => return Err(bundled::unfit(hook, name, &rejection)),
            }
        }
        let builtin = self.builtin.clone();
        self.store(builtin, Vec::new(), Way::untraced(), "");
        Ok(())
    }
}
