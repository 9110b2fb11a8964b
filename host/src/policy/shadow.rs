//! A candidate beside the live policy: asked the same questions, its answers only compared.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::fault::RunError;
use super::generation::Revision;

/// Comparisons of one shadow that may be under way at once; more requests go uncompared.
const AT_ONCE: usize = 4;

pub(super) struct Shadow {
    pub revision: Arc<Revision>,
    counts: Arc<Counts>,
    turns: Arc<Semaphore>,
}

/// How a candidate's answers compare with the live ones.
#[derive(Default)]
struct Counts {
    same: AtomicU64,
    different: AtomicU64,
    failed: AtomicU64,
    skipped: AtomicU64,
}

impl Shadow {
    pub(super) fn new(revision: Arc<Revision>) -> Self {
        Self {
            revision,
            counts: Arc::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Asks the candidate off the request's path.
    pub(super) fn compare<R: PartialEq + Send + 'static>(
        &self,
        live: R,
        candidate: impl Future<Output = Option<Result<R, RunError>>> + Send + 'static,
    ) {
        let Ok(turn) = self.turns.clone().try_acquire_owned() else {
            self.counts.skipped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (counts, revision) = (self.counts.clone(), self.revision.clone());
        tokio::spawn(async move {
            let counter = match candidate.await {
                Some(Ok(answer)) if answer == live => &counts.same,
                Some(Ok(_)) => &counts.different,
                Some(Err(fault)) => {
                    tracing::debug!(target: "stent::policy", policy = revision.name,
                        "the shadow policy failed: {fault}");
                    &counts.failed
                }
                None => &counts.skipped,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            drop(turn);
        });
    }

    /// Same, different, failed, skipped.
    pub(super) fn counts(&self) -> [u64; 4] {
        let counts = &self.counts;
        [
            &counts.same,
            &counts.different,
            &counts.failed,
            &counts.skipped,
        ]
        .map(|counter| counter.load(Ordering::Relaxed))
    }
}
