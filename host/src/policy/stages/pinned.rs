//! What stays the same for a request's whole life, and what every call of a policy needs.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use tracing::Span;

use super::{Asked, Pieces};
use crate::policy::call::faulted;
use crate::policy::fault::{Denied, RunError};
use crate::policy::generation::{Generation, Revision};
use crate::policy::guest::Instance;
use crate::policy::recording::Recorder;
use crate::policy::reload::Hint;
use crate::policy::remembered::Memory;
use crate::policy::settings::Settings;
use crate::policy::types::{Facts, Hook, Layout, Observer};
use crate::types::Tokenizer;

/// What a snapshot holds.
pub(super) struct Pinned {
    pub generation: Arc<Generation>,
    pub facts: Arc<Facts>,
    pub shared: Arc<Shared>,
    /// The request's span: policy calls are its children.
    pub span: Span,
    pub layout: tokio::sync::OnceCell<Declared>,
    /// The instance that declared the layout goes on to build.
    pub builder: Mutex<Option<Instance>>,
    /// Nobody asked: nothing of it is recorded, counted or compared.
    pub made_up: bool,
    pub faulted: Arc<AtomicBool>,
}

/// A layout and who will build by it: the two belong together.
#[derive(Clone)]
pub(super) struct Declared {
    pub layout: Layout,
    pub by_guest: bool,
}

/// What every call needs beside its generation.
pub(in crate::policy) struct Shared {
    pub tokenizer: Arc<dyn Tokenizer>,
    pub pieces: Pieces,
    pub observer: Arc<dyn Observer>,
    pub settings: Arc<Settings>,
    pub hints: Mutex<mpsc::Sender<Hint>>,
    pub native_layout: Layout,
    /// What the policies decided before.
    pub memory: Memory,
    /// Where the operator wants calls recorded.
    pub recorder: Option<Recorder>,
}

impl Shared {
    /// Asks the reconciler to take the hook back to its last good revision, if what serves it is
    /// what began to in generation `since`.
    pub(in crate::policy) fn trip(&self, hook: Hook, since: u64) {
        let hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody listens any more when the gateway goes down.
        let _ = hints.send(Hint::Tripped { hook, since });
    }
}

/// Whoever declared a layout and was not asked to build goes back, for the janitor to make a new one.
impl Drop for Pinned {
    fn drop(&mut self) {
        let instance = self.builder().take();
        if let (Some(instance), Some(pool)) = (instance, &self.generation.of(Hook::Prompt).pool) {
            pool.spent(instance);
        }
    }
}

impl Pinned {
    pub fn asked_of(&self, revision: &Arc<Revision>) -> Asked {
        Asked {
            revision: revision.clone(),
            generation: self.generation.number,
            facts: self.facts.clone(),
            shared: self.shared.clone(),
            span: self.span.clone(),
            live: !self.made_up,
            faulted: self.faulted.clone(),
        }
    }

    /// The guest's result, or what the operator chose for its absence or failure.
    pub fn settle<R>(
        &self,
        hook: Hook,
        asked: Option<Result<R, RunError>>,
        native: impl FnOnce() -> R,
    ) -> Result<R, Denied> {
        match asked {
            Some(Ok(result)) => Ok(result),
            Some(Err(fault)) => {
                faulted(&self.asked_of(self.generation.of(hook)), fault)?;
                Ok(native())
            }
            None => Ok(native()),
        }
    }

    pub fn builder(&self) -> MutexGuard<'_, Option<Instance>> {
        self.builder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
