//! One settled file on its way to serving: verify, compile, instantiate, probe, swap.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::look::GROWING;
use super::{Cause, FileState, Reconciler, Way, Work};
use crate::policy::cases::{self, Cases};
use crate::policy::checks;
use crate::policy::compile::{Begun, Compiled, Job};
use crate::policy::folder::{self, Stamp};
use crate::policy::generation::{Origin, Revision, digest};
use crate::policy::pool::Pool;
use crate::policy::probe::{Bench, Candidate};
use crate::policy::shadow::Shadow;
use crate::policy::signature;
use crate::policy::stage::{Rejection, Stage};
use crate::policy::types::Hook;

/// What a file is before it is tried.
enum Verified {
    Compiled(Compiled),
    /// A child makes its code.
    Compiling(Job),
    /// It passed all stages before.
    Serves,
    /// It changed meanwhile.
    Stale,
}

/// What becomes of a file that was looked into.
enum Admitted {
    /// It passed all stages.
    Ready(Vec<Arc<Revision>>),
    Serves,
    Stale,
}

impl Reconciler {
    /// Takes one file through the stages; `stamp` is what it settled with. Where its code has to be
    /// made first, [`Reconciler::go_on`] takes it from there.
    pub(super) fn admit(&mut self, path: &Path, stamp: Stamp, cause: Cause) -> FileState {
        let mut way = self.way_of(path);
        let span = way.span();
        let _entered = span.enter();
        let mut sha256 = String::new();
        let admitted = match self.verify(path, stamp, &mut sha256, &mut way) {
            Ok(Verified::Compiling(job)) => {
                self.keep_way(path, way);
                self.history.expect(Some(&sha256));
                return FileState::Compiling(Box::new(Work { job, sha256 }));
            }
            Ok(Verified::Compiled(compiled)) => {
                self.try_out(path, stamp, compiled, &sha256, &mut way)
            }
            Ok(Verified::Serves) => Ok(Admitted::Serves),
            Ok(Verified::Stale) => Ok(Admitted::Stale),
            Err(rejection) => Err(rejection),
        };
        self.conclude(path, cause, sha256, admitted, way)
    }

    /// The rest of the stages, once the code is there.
    pub(super) fn go_on(&mut self, path: &Path, mut work: Box<Work>, cause: Cause) -> FileState {
        let (core, limits) = (self.core.clone(), &self.settings.limits);
        let engine = &core.runtime.engine;
        let Some(compiled) = core.compiler.finish(engine, &mut work.job, limits) else {
            return FileState::Compiling(work);
        };
        self.history.expect(None);
        let Some(stamp) = self.files.get(path).map(|file| file.stamp) else {
            return FileState::Settling;
        };
        let mut way = self.way_of(path);
        let span = way.span();
        let _entered = span.enter();
        let sha256 = work.sha256;
        let admitted = compiled.and_then(|it| self.try_out(path, stamp, it, &sha256, &mut way));
        self.conclude(path, cause, sha256, admitted, way)
    }

    fn conclude(
        &mut self,
        path: &Path,
        cause: Cause,
        sha256: String,
        admitted: Result<Admitted, Rejection>,
        mut way: Way,
    ) -> FileState {
        let generation = self.core.live.load().number;
        let since = self
            .files
            .get(path)
            .map_or_else(Instant::now, |file| file.since);
        match admitted {
            Ok(Admitted::Ready(revisions)) => {
                match checks::is_shadow(&self.settings, path) {
                    true => self.shade(path, revisions, way),
                    false => {
                        let reason = path.display().to_string();
                        self.serve(revisions, cause.by, cause.what, &reason, way);
                    }
                }
                FileState::Serving { sha256 }
            }
            Ok(Admitted::Serves) => {
                way.ended("unchanged", generation);
                FileState::Serving { sha256 }
            }
            Ok(Admitted::Stale) => {
                way.enter("settle");
                self.keep_way(path, way);
                FileState::Settling
            }
            Err(rejection) if rejection.truncated && since.elapsed() < GROWING => {
                way.enter("settle");
                self.keep_way(path, way);
                FileState::Truncated(rejection)
            }
            Err(rejection) => {
                self.history.discard(&sha256);
                self.rejected(path, &rejection);
                way.failed(&rejection, generation);
                FileState::Rejected { sha256, rejection }
            }
        }
    }

    fn way_of(&mut self, path: &Path) -> Way {
        let way = self.files.get_mut(path).and_then(|file| file.way.take());
        way.unwrap_or_else(|| Way::settling(path))
    }

    fn keep_way(&mut self, path: &Path, way: Way) {
        if let Some(file) = self.files.get_mut(path) {
            file.way = Some(way);
        }
    }

    fn verify(
        &mut self,
        path: &Path,
        stamp: Stamp,
        sha256: &mut String,
        way: &mut Way,
    ) -> Result<Verified, Rejection> {
        way.enter("verify");
        let bytes = self.read(path, stamp)?;
        if bytes.len() as u64 != stamp.len {
            return Ok(Verified::Stale);
        }
        *sha256 = digest(&bytes);
        if self.serves(path, sha256) {
            return Ok(Verified::Serves);
        }
        signature::verify(path, &bytes, &self.settings.trusted_keys)?;
        checks::pinned_out(&self.settings, sha256)?;
        way.enter("compile");
        Ok(match self.compile(path, &bytes, sha256)? {
            Begun::Compiled(compiled) => Verified::Compiled(compiled),
            Begun::Running(job) => Verified::Compiling(job),
        })
    }

    fn try_out(
        &self,
        path: &Path,
        stamp: Stamp,
        mut compiled: Compiled,
        sha256: &str,
        way: &mut Way,
    ) -> Result<Admitted, Rejection> {
        match checks::is_shadow(&self.settings, path) {
            true => checks::shadowed(&self.settings, path, &compiled.hooks)?,
            false => {
                checks::unheld(&mut compiled.hooks, |hook| {
                    let config = digest(self.settings.config(hook).as_bytes());
                    self.history.held(hook, sha256, &config)
                })?;
                checks::ordered(&self.settings, path, &mut compiled.hooks)?;
            }
        }
        checks::pinned(&self.settings, sha256, &compiled.hooks)?;
        let origin = Origin::File(path.to_owned());
        let revisions = self.revisions(&compiled, origin, sha256, None, way)?;
        way.enter("cases");
        self.pass_cases(&revisions, path)?;
        way.enter("swap");
        self.unrivalled(path, &compiled.hooks)?;
        match folder::stamp(path).ok() == Some(stamp) {
            true => Ok(Admitted::Ready(revisions)),
            false => Ok(Admitted::Stale),
        }
    }

    fn read(&self, path: &Path, stamp: Stamp) -> Result<Vec<u8>, Rejection> {
        checks::size(&self.settings, stamp.len)?;
        fs::read(path).map_err(|e| Stage::Verify.reject(format!("cannot be read: {e}")))
    }

    /// Already live, or already a shadow, from this very file.
    fn serves(&self, path: &Path, sha256: &str) -> bool {
        let live = self.core.live.load();
        let here = |revision: &Revision| {
            revision.sha256 == sha256
                && matches!(&revision.origin, Origin::File(file) if file == path)
        };
        match checks::is_shadow(&self.settings, path) {
            true => live.shadows.iter().any(|shadow| here(&shadow.revision)),
            false => live.revisions.iter().any(|revision| here(revision)),
        }
    }

    /// Golden cases beside the file and from the configuration.
    pub(super) fn pass_cases(
        &self,
        revisions: &[Arc<Revision>],
        path: &Path,
    ) -> Result<(), Rejection> {
        for revision in revisions {
            for file in checks::cases(&self.settings, revision.hook, path) {
                Cases::read(&file)
                    .and_then(|cases| cases::run(&cases, revision, &self.core.shared))
                    .map_err(|r| r.about(Some(revision.hook)))?;
            }
        }
        Ok(())
    }

    /// Compiles a copy that nobody else writes to.
    fn compile(&self, path: &Path, bytes: &[u8], sha256: &str) -> Result<Begun, Rejection> {
        let signature = match self.settings.trusted_keys.is_empty() {
            true => None,
            false => Some(folder::signature(path)),
        };
        let kept = self.history.store(sha256, bytes, signature.as_deref());
        kept.map_err(|e| Stage::Compile.reject(format!("its source could not be kept: {e}")))?;
        let source = self.history.source(sha256);
        let (core, limits) = (&self.core, &self.settings.limits);
        core.compiler
            .begin(&core.runtime.engine, &source, sha256, limits)
    }

    /// No other file serves one of the hooks.
    fn unrivalled(&self, path: &Path, hooks: &[Hook]) -> Result<(), Rejection> {
        let live = self.core.live.load();
        // A file that settles again still serves what it did.
        let there = |file: &Path| {
            let state = self.files.get(file).map(|file| &file.state);
            !matches!(
                state,
                None | Some(FileState::Missing(_) | FileState::Rejected { .. })
            )
        };
        let rival = hooks.iter().find_map(|&hook| match &live.of(hook).origin {
            Origin::File(other) if other != path && there(other) => Some((hook, other.clone())),
            _ => None,
        });
        match rival.filter(|_| !checks::is_shadow(&self.settings, path)) {
            None => Ok(()),
            Some((hook, other)) => Err(checks::rival(hook, &other)),
        }
    }

    /// Probes the component for each of its hooks, with warm instances ready. `config`: another one
    /// than the settings have today.
    pub(super) fn revisions(
        &self,
        compiled: &Compiled,
        origin: Origin,
        sha256: &str,
        config: Option<&str>,
        way: &mut Way,
    ) -> Result<Vec<Arc<Revision>>, Rejection> {
        let core = &self.core;
        let bench = Bench {
            runtime: &core.runtime,
            crew: &core.crew,
            tokenizer: &core.shared.tokenizer,
            limits: &Arc::new(self.settings.limits.clone()),
        };
        let mut probe = |&hook: &Hook| {
            let config = config.map_or_else(|| self.settings.config(hook), str::to_owned);
            let component = &compiled.component;
            let candidate = bench
                .probe(way, component, hook, config)
                .map_err(|r| r.about(Some(hook)))?;
            Ok(self.revision(candidate, compiled, origin.clone(), sha256))
        };
        compiled.hooks.iter().map(&mut probe).collect()
    }

    pub(super) fn revision(
        &self,
        candidate: Candidate,
        compiled: &Compiled,
        origin: Origin,
        sha256: &str,
    ) -> Arc<Revision> {
        let settings = self.settings.hook(candidate.hook);
        let config_digest = digest(candidate.template.config().as_bytes());
        let pool = Pool::new(candidate.template, self.core.crew.clone());
        pool.stock();
        Arc::new(Revision {
            hook: candidate.hook,
            number: match origin {
                Origin::Builtin => 0,
                _ => self.history.number(candidate.hook, sha256, &config_digest),
            },
            name: candidate.name,
            version: candidate.version,
            sha256: sha256.to_owned(),
            config_digest,
            origin,
            since: self.core.live.load().number + 1,
            fail: settings.fail,
            granted: settings.scope,
            breaker: crate::policy::breaker::Breaker::default(),
            told: crate::policy::told::Told::default(),
            component: Some(compiled.component.clone()),
            pool: Some(pool),
        })
    }

    fn shade(&mut self, path: &Path, revisions: Vec<Arc<Revision>>, way: Way) {
        let live = self.core.live.load_full();
        let mut shadows = live.shadows.clone();
        let from_here = |r: &Revision| r.file().is_some_and(|file| file == path);
        shadows.retain(|shadow| !from_here(&shadow.revision));
        let fresh = revisions.iter().cloned();
        shadows.extend(fresh.map(|revision| Arc::new(Shadow::new(revision))));
        self.store(live.revisions.clone(), shadows, way, "shadowed");
        let (before, reason) = (&live.shadows, path.display().to_string());
        let before = |hook| {
            let mut old = before.iter().map(|shadow| &shadow.revision);
            let old = old.find(|r| r.hook == hook && from_here(r));
            old.map_or(String::new(), |r| r.sha256.clone())
        };
        for revision in &revisions {
            self.changed(revision, "file", "shadowed", before(revision.hook), &reason);
        }
    }
}
