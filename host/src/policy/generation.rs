//! What serves: one revision for each hook, under one number.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use wasmtime::component::Component;

use super::breaker::Breaker;
use super::pool::Pool;
use super::reload::Draining;
use super::settings::Fail;
use super::shadow::Shadow;
use super::told::Told;
use super::types::{Hook, Listed, Scope, State};

/// All hooks and their configs as one unit. Built fully, then stored at once; a request pins one
/// for its whole life.
pub(super) struct Generation {
    pub number: u64,
    /// In the order of [`Hook::ALL`].
    pub revisions: [Arc<Revision>; 5],
    pub shadows: Vec<Arc<Shadow>>,
    /// Digest over all policies and configs.
    pub identity: String,
    /// Digest over those that decide once the final prompt is known, and its builder.
    pub identity_behind_prompt: String,
    _counted: Counted,
    /// The trace of what replaced it, which ends when this is freed.
    draining: OnceLock<Draining>,
}

/// One policy serving one hook.
pub(super) struct Revision {
    pub hook: Hook,
    /// In the hook's own history, from 1; 0 for built-in ones.
    pub number: u64,
    pub name: String,
    pub version: String,
    pub sha256: String,
    /// Hex digest of the JSON given to `configure`.
    pub config_digest: String,
    pub origin: Origin,
    /// The generation in which it began to serve.
    pub since: u64,
    pub fail: Fail,
    pub granted: Scope,
    pub breaker: Breaker,
    pub told: Told,
    /// For another config of the same policy.
    pub component: Option<Component>,
    /// `None`: plain native code decides.
    pub pool: Option<Arc<Pool>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Builtin,
    File(PathBuf),
    /// From the history; the file it once came from.
    History(PathBuf),
}

/// How many generations are alive.
#[derive(Clone, Default)]
pub(super) struct Gauge(Arc<AtomicUsize>);

struct Counted(Gauge);

impl Generation {
    pub(super) fn new(
        number: u64,
        revisions: [Arc<Revision>; 5],
        shadows: Vec<Arc<Shadow>>,
        gauge: &Gauge,
    ) -> Self {
        gauge.0.fetch_add(1, Ordering::Relaxed);
        Self {
            number,
            identity: identity(&revisions, &Hook::ALL),
            identity_behind_prompt: identity(
                &revisions,
                &[Hook::Prompt, Hook::Cache, Hook::Filter],
            ),
            revisions,
            shadows,
            _counted: Counted(gauge.clone()),
            draining: OnceLock::new(),
        }
    }

    /// It serves no new requests any more.
    pub(super) fn replaced(&self, draining: Option<Draining>) {
        if let Some(draining) = draining {
            // A generation is replaced once.
            let _ = self.draining.set(draining);
        }
    }

    pub(super) fn of(&self, hook: Hook) -> &Arc<Revision> {
        &self.revisions[hook as usize]
    }

    pub(super) fn shadow(&self, hook: Hook) -> Option<&Arc<Shadow>> {
        self.shadows
            .iter()
            .find(|shadow| shadow.revision.hook == hook)
    }
}

/// Hex digest over the policies of these hooks and their configs.
fn identity(revisions: &[Arc<Revision>; 5], hooks: &[Hook]) -> String {
    let mut digest = Sha256::new();
    for hook in hooks {
        let revision = &revisions[*hook as usize];
        for part in [hook.as_str(), &revision.sha256, &revision.config_digest] {
            digest.update(part);
            digest.update([0]);
        }
    }
    hex::encode(digest.finalize())
}

impl Revision {
    /// Decides in native code: where no guest serves a hook.
    pub(super) fn native(hook: Hook, fail: Fail) -> Self {
        Self {
            hook,
            number: 0,
            name: "native".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            sha256: String::new(),
            config_digest: String::new(),
            origin: Origin::Builtin,
            since: 1,
            fail,
            granted: Scope::Session,
            breaker: Breaker::default(),
            told: Told::default(),
            component: None,
            pool: None,
        }
    }

    /// The same policy, serving again from generation `since` on, with its faults forgotten.
    pub(super) fn again(&self, since: u64) -> Self {
        Self {
            hook: self.hook,
            number: self.number,
            name: self.name.clone(),
            version: self.version.clone(),
            sha256: self.sha256.clone(),
            config_digest: self.config_digest.clone(),
            origin: self.origin.clone(),
            since,
            fail: self.fail,
            granted: self.granted,
            breaker: Breaker::default(),
            told: Told::default(),
            component: self.component.clone(),
            pool: self.pool.clone(),
        }
    }

    /// What operators are shown of it.
    pub(super) fn listed(&self, state: State) -> Listed {
        Listed {
            hook: Some(self.hook),
            name: self.name.clone(),
            version: self.version.clone(),
            sha256: self.sha256.clone(),
            revision: self.number,
            generation: self.since,
            state,
            file: self.file().cloned(),
            stage: None,
            reason: None,
        }
    }

    pub(super) fn file(&self) -> Option<&PathBuf> {
        match &self.origin {
            Origin::Builtin => None,
            Origin::File(file) | Origin::History(file) => Some(file),
        }
    }
}

impl Gauge {
    pub(super) fn read(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hex sha256.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
