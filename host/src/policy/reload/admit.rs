//! One settled file on its way to serving: verify, compile, instantiate, probe, swap.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::look::GROWING;
use super::{Cause, FileState, Reconciler, Way};
use crate::policy::cases::{self, Cases};
use crate::policy::checks;
use crate::policy::compile::Compiled;
use crate::policy::folder::{self, Stamp};
use crate::policy::generation::{Origin, Revision, digest};
use crate::policy::pool::Pool;
use crate::policy::probe::{Bench, Candidate};
use crate::policy::shadow::Shadow;
use crate::policy::signature;
use crate::policy::stage::{Rejection, Stage};
use crate::policy::types::Hook;

/// What becomes of a file that was looked into.
enum Admitted {
    /// It passed all stages.
    Ready(Vec<Arc<Revision>>),
    /// It did so before.
    Serves,
    /// It changed meanwhile.
    Stale,
}

impl Reconciler {
    /// Takes one file through the stages; `stamp` is what it settled with.
    pub(super) fn admit(&mut self, path: &Path, stamp: Stamp, cause: Cause) -> FileState {
        let (way, since) = match self.files.get_mut(path) {
            Some(file) => (file.way.take(), file.since),
            None => (None, Instant::now()),
        };
        let mut way = way.unwrap_or_else(|| Way::settling(path));
        let span = way.span();
        let _entered = span.enter();
        let mut sha256 = String::new();
        let admitted = self.stages(path, stamp, &mut sha256, &mut way);
        let generation = self.core.live.load().number;
        match admitted {
            Ok(Admitted::Ready(revisions)) => {
                match folder::is_shadow(path) {
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
                self.settle_again(path, way);
                FileState::Settling
            }
            Err(rejection) if rejection.truncated && since.elapsed() < GROWING => {
                self.settle_again(path, way);
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

    fn settle_again(&mut self, path: &Path, mut way: Way) {
        way.enter("settle");
        if let Some(file) = self.files.get_mut(path) {
            file.way = Some(way);
        }
    }

    fn stages(
        &mut self,
        path: &Path,
        stamp: Stamp,
        sha256: &mut String,
        way: &mut Way,
    ) -> Result<Admitted, Rejection> {
        way.enter("verify");
        let bytes = self.read(path, stamp)?;
        if bytes.len() as u64 != stamp.len {
            return Ok(Admitted::Stale);
        }
        *sha256 = digest(&bytes);
        if self.serves(path, sha256) {
            return Ok(Admitted::Serves);
        }
        signature::verify(path, &bytes, &self.settings.trusted_keys)?;
        checks::pinned_out(&self.settings, sha256)?;
        if let Some(file) = self.files.get_mut(path) {
            file.state = FileState::Compiling;
            self.publish();
        }
        way.enter("compile");
        let mut compiled = self.compile(&bytes, sha256)?;
        if !folder::is_shadow(path) {
            checks::unheld(&mut compiled.hooks, |hook| self.history.held(hook, sha256))?;
        }
        checks::pinned(&self.settings, sha256, &compiled.hooks)?;
        let revisions = self.revisions(&compiled, Origin::File(path.to_owned()), sha256, way)?;
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
        match folder::is_shadow(path) {
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
    fn compile(&self, bytes: &[u8], sha256: &str) -> Result<Compiled, Rejection> {
        let kept = self.history.store(sha256, bytes);
        kept.map_err(|e| Stage::Compile.reject(format!("its source could not be kept: {e}")))?;
        let source = self.history.source(sha256);
        let (core, limits) = (&self.core, &self.settings.limits);
        core.compiler
            .compile(&core.runtime.engine, &source, sha256, limits)
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
        match rival.filter(|_| !folder::is_shadow(path)) {
            None => Ok(()),
            Some((hook, other)) => Err(checks::rival(hook, &other)),
        }
    }

    /// Probes the component for each of its hooks, with warm instances ready.
    pub(super) fn revisions(
        &self,
        compiled: &Compiled,
        origin: Origin,
        sha256: &str,
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
            let config = serde_json::Value::Object(self.settings.hook(hook).config.clone());
            let component = &compiled.component;
            let candidate = bench
                .probe(way, component, hook, config.to_string())
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
        pool.fill();
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
