//! A candidate beside the live policy: asked the same questions, its answers only compared.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::call::Ask;
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
    /// By what differed.
    different: Mutex<BTreeMap<&'static str, u64>>,
    failed: AtomicU64,
    skipped: AtomicU64,
}

/// One comparison, ended.
#[derive(Clone, Copy)]
enum Outcome {
    Same,
    Different,
    Failed,
    /// Too many were under way.
    Skipped,
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
        shadow.compare(Ask::Filter, &observer, Ok(live), async move {
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
    pub(super) fn compare<R: PartialEq + Send + 'static>(
        &self,
        ask: Ask,
        observer: &Arc<dyn Observer>,
        live: Result<R, Denied>,
        candidate: impl Future<Output = Option<Result<R, RunError>>> + Send + 'static,
    ) {
        // What was refused was decided by the host.
        let Ok(live) = live else { return };
        let (counts, revision) = (self.counts.clone(), self.revision.clone());
        let observer = observer.clone();
        let tell = move |outcome| {
            counts.add(ask, outcome);
            observer.compared(&ShadowFacts {
                hook: revision.hook,
                policy: &revision.name,
                result: outcome.as_str(),
            });
        };
        let Ok(turn) = self.turns.clone().try_acquire_owned() else {
            return tell(Outcome::Skipped);
        };
        let name = self.revision.name.clone();
        tokio::spawn(async move {
            tell(match candidate.await {
                Some(Ok(answer)) if answer == live => Outcome::Same,
                Some(Ok(_)) => Outcome::Different,
                Some(Err(fault)) if fault.is_want() => Outcome::Skipped,
                Some(Err(fault)) => {
                    tracing::debug!(target: "stent::policy", policy = name,
                        "the shadow policy failed: {fault}");
                    Outcome::Failed
                }
                None => Outcome::Skipped,
            });
            drop(turn);
        });
    }

    /// Its counts in one sentence.
    pub(super) fn told(&self) -> String {
        format!("compared with the live policy: {}", self.counts)
    }
}

impl Counts {
    fn add(&self, ask: Ask, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Same => &self.same,
            Outcome::Failed => &self.failed,
            Outcome::Skipped => &self.skipped,
            Outcome::Different => {
                *self.different().entry(difference(ask)).or_default() += 1;
                return;
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn different(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        // Nothing is left half done under this lock.
        self.different
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What it means that two policies answer a question differently.
fn difference(ask: Ask) -> &'static str {
    match ask {
        Ask::Guard => "other verdict",
        Ask::CacheDecide => "other key",
        Ask::Layout | Ask::Build => "other prompt tokens",
        Ask::Trim => "trimmed differently",
        Ask::CacheAdmit => "kept otherwise",
        Ask::Filter => "other text",
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let different = self.different();
        let total: u64 = different.values().sum();
        write!(f, "{} same, {total} different", read(&self.same))?;
        for (at, (what, count)) in different.iter().enumerate() {
            write!(f, "{}{what}: {count}", if at == 0 { " (" } else { ", " })?;
        }
        if total > 0 {
            f.write_str(")")?;
        }
        let (failed, skipped) = (read(&self.failed), read(&self.skipped));
        write!(f, ", {failed} failed, {skipped} skipped")
    }
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Outcome::Same => "same",
            Outcome::Different => "different",
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
        }
    }
}
