//! The spans of a job that runs: its `chat` span, and below it that of what it is busy with.
//!
//! They are shared with the watchdog: of a step that never comes back, the engine's thread ends no
//! span, and a root is exported only after everything below it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::Span;

use crate::trace::spans;

#[derive(Clone)]
pub struct Open(Arc<Mutex<Option<(Span, Span)>>>);

impl Open {
    /// It waits for a slot.
    pub fn queued(chat: Span) -> Self {
        let stage = spans::queue_wait(&chat);
        Self(Arc::new(Mutex::new(Some((chat, stage)))))
    }

    /// The next stage, given the `chat` span, begins where this one ends.
    pub fn turn(&self, next: impl FnOnce(&Span) -> Span) {
        if let Some((chat, stage)) = &mut *self.lock() {
            let old = std::mem::replace(stage, next(chat));
            // The registry looks for the subscriber on this thread when it lets go of the parent.
            spans::within(chat, || drop(old));
        }
    }

    /// Ends both; `last` tells of the stage what is known at its end.
    pub fn end(&self, last: impl FnOnce(&Span)) {
        let Some((chat, stage)) = self.lock().take() else {
            return;
        };
        last(&stage);
        let inner = chat.clone();
        spans::within(&chat, || {
            drop(stage);
            drop(inner);
        });
    }

    /// The step in which it is hangs: here is where.
    pub fn stalled(&self) {
        self.end(|stage| spans::failed(stage, "stalled"));
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Span, Span)>> {
        // Every change is one step: whoever panicked with the lock left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
