//! A candidate beside the live policy: asked the same questions, its answers only compared.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::fault::RunError;
use super::generation::Revision;
use super::types::{Observer, ShadowFacts};

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
        observer: &Arc<dyn Observer>,
        live: R,
        candidate: impl Future<Output = Option<Result<R, RunError>>> + Send + 'static,
    ) {
        let (counts, revision) = (self.counts.clone(), self.revision.clone());
        let observer = observer.clone();
        let tell = move |result| {
            counts.of(result).fetch_add(1, Ordering::Relaxed);
            observer.compared(&ShadowFacts {
                hook: revision.hook,
                policy: &revision.name,
                result,
            });
        };
        let Ok(turn) = self.turns.clone().try_acquire_owned() else {
            return tell("skipped");
        };
        let name = self.revision.name.clone();
        tokio::spawn(async move {
            tell(match candidate.await {
                Some(Ok(answer)) if answer == live => "same",
                Some(Ok(_)) => "different",
                Some(Err(fault)) => {
                    tracing::debug!(target: "stent::policy", policy = name,
                        "the shadow policy failed: {fault}");
                    "failed"
                }
                None => "skipped",
            });
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

impl Counts {
    fn of(&self, result: &str) -> &AtomicU64 {
        match result {
            "same" => &self.same,
            "different" => &self.different,
            "failed" => &self.failed,
            _ => &self.skipped,
        }
    }
}
