//! A candidate beside the live policy: asked the same questions, its answers only compared.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::cases::filtered;
use super::fault::{Denied, RunError};
use super::generation::Revision;
use super::recording::Filtered;
use super::stages::Asked;
use super::types::{Observer, ShadowFacts, Step};
use crate::types::Finish;

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

/// What the live filter heard and said of one answer, for the candidate to hear afterwards: while
/// the answer runs it costs a copy of the text, and no instance.
pub(super) struct Beside {
    shadow: Arc<Shadow>,
    asked: Asked,
    chunks: Vec<String>,
    live: Filtered,
}

impl Beside {
    pub(super) fn new(shadow: Arc<Shadow>, asked: Asked) -> Self {
        Self {
            shadow,
            asked,
            chunks: Vec::new(),
            live: Filtered::default(),
        }
    }

    pub(super) fn heard(&mut self, chunk: &str) {
        self.chunks.push(chunk.to_owned());
    }

    pub(super) fn said(&mut self, step: &Step) {
        match step {
            Step::Emit(text) => self.live.emitted.push_str(text),
            Step::Stop { emit, reason } => {
                self.live.emitted.push_str(emit);
                self.live.stopped = Some(reason.clone());
            }
        }
    }

    /// The answer is whole; `why` is `None` where the live filter stopped it.
    pub(super) fn compare(self, why: Option<Finish>) {
        let Self {
            shadow,
            asked,
            chunks,
            live,
        } = self;
        let observer = asked.shared.observer.clone();
        shadow.compare(&observer, &Ok(live), async move {
            filtered(&asked, &chunks, why).await
        });
    }
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
    pub(super) fn compare<R: Clone + PartialEq + Send + 'static>(
        &self,
        observer: &Arc<dyn Observer>,
        live: &Result<R, Denied>,
        candidate: impl Future<Output = Option<Result<R, RunError>>> + Send + 'static,
    ) {
        // What was refused was decided by the host.
        let Ok(live) = live.clone() else { return };
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
