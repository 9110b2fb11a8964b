//! The stages of a request. Each asks a guest, verifies what it answered, and knows what decides
//! when it fails.

mod ask;
mod encode;
mod filter;
mod pieces;
mod prompting;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tracing::Span;

use super::budget::Budget;
use super::call::{faulted, is_fault};
use super::fault::{Denied, RunError};
use super::generation::{Generation, Revision};
use super::guest::Instance;
use super::native;
use super::recording::{self, Filtered, Heard, Line, Recorder, Tape};
use super::reload::Hint;
use super::remembered::Memory;
use super::settings::Settings;
use super::shadow::{Beside, Shadow};
use super::types::{
    AnswerOutcome, Facts, Hook, Layout, Lookup, Observer, Prompt, Trimmed, Verdict,
};
use crate::types::{Message, Tokenizer};

pub(super) use ask::Asked;
pub(super) use filter::Active as ActiveFilter;
pub use filter::Filter;
pub(super) use pieces::Pieces;
pub(super) use prompting::case_prompt;

/// One generation of policies, pinned for a request's whole life, with what is known about the
/// request. Cloning is cheap.
#[derive(Clone)]
pub struct Snapshot(Arc<Pinned>);

struct Pinned {
    generation: Arc<Generation>,
    facts: Arc<Facts>,
    shared: Arc<Shared>,
    /// The request's span: policy calls are its children.
    span: Span,
    layout: tokio::sync::OnceCell<Declared>,
    /// The instance that declared the layout goes on to build.
    builder: Mutex<Option<Instance>>,
    /// Nobody asked: nothing of it is recorded, counted or compared.
    made_up: bool,
    faulted: Arc<AtomicBool>,
}

/// A layout and who will build by it: the two belong together.
#[derive(Clone)]
struct Declared {
    layout: Layout,
    by_guest: bool,
}

/// What every call needs beside its generation.
pub(super) struct Shared {
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
    /// Asks the reconciler to take the hook back to its last good revision.
    pub(super) fn trip(&self, hook: Hook, sha256: &str) {
        let hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody listens any more when the gateway goes down.
        let _ = hints.send(Hint::Tripped {
            hook,
            sha256: sha256.to_owned(),
        });
    }
}

impl Snapshot {
    pub(super) fn new(
        generation: Arc<Generation>,
        facts: Facts,
        span: Span,
        shared: Arc<Shared>,
    ) -> Self {
        Self(Arc::new(Pinned {
            generation,
            facts: Arc::new(facts),
            shared,
            span,
            layout: tokio::sync::OnceCell::new(),
            builder: Mutex::default(),
            made_up: false,
            faulted: Arc::default(),
        }))
    }

    /// The same policies for questions that nobody asked, after the answer: no part of the
    /// request's trace.
    #[must_use]
    pub fn aside(&self) -> Self {
        Self(Arc::new(Pinned {
            generation: self.0.generation.clone(),
            facts: self.0.facts.clone(),
            shared: self.0.shared.clone(),
            span: Span::none(),
            layout: self.0.layout.clone(),
            builder: Mutex::default(),
            made_up: true,
            faulted: Arc::default(),
        }))
    }

    pub fn generation(&self) -> u64 {
        self.0.generation.number
    }

    /// Hex digest over all policies and their configs.
    pub fn identity(&self) -> &str {
        &self.0.generation.identity
    }

    /// Hex digest over the policies that an answer to a known prompt depends on, and their configs:
    /// the builder, which also says where the answer ends, the filter, and the cache's own. What
    /// guard and trimming did shows in the prompt.
    pub fn identity_behind_prompt(&self) -> &str {
        &self.0.generation.identity_behind_prompt
    }

    /// Whether a policy failed in this request, so that something else decided in its place.
    pub fn faulted(&self) -> bool {
        self.0.faulted.load(Ordering::Relaxed)
    }

    /// Digest of one hook's policy and digest of its config.
    pub fn digest(&self, hook: Hook) -> (&str, &str) {
        let revision = self.0.generation.of(hook);
        (&revision.sha256, &revision.config_digest)
    }

    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// What the prompt adds to messages. Asked once for each snapshot.
    pub async fn layout(&self) -> Result<Layout, Denied> {
        Ok(self.declared().await?.layout.clone())
    }

    async fn declared(&self) -> Result<&Declared, Denied> {
        self.0
            .layout
            .get_or_try_init(|| prompting::declared(&self.0))
            .await
    }

    /// Whether the newest message may go on, and as what.
    pub async fn guard(&self, messages: &[Message]) -> Result<Verdict, Denied> {
        let asked = self.asked(Hook::Guard).guard(messages).await;
        let faulted = is_fault(&asked);
        let verdict = self.settle(Hook::Guard, asked, || Verdict::Allow);
        if let Some((shadow, ask)) = self.shadow(Hook::Guard, faulted) {
            let messages = messages.to_vec();
            shadow.compare(&self.0.shared.observer, &verdict, async move {
                ask.guard(&messages).await
            });
        }
        self.record(Hook::Guard, || Heard::Guard {
            messages: messages.to_vec(),
            answer: verdict.as_ref().ok().cloned(),
        });
        verdict
    }

    /// Whether the answer may come from the cache.
    pub async fn cache_decide(&self, messages: &[Message]) -> Result<Lookup, Denied> {
        let asked = self.asked(Hook::Cache).decide(messages).await;
        let faulted = is_fault(&asked);
        let lookup = self.settle(Hook::Cache, asked, || Lookup::Bypass);
        if let Some((shadow, ask)) = self.shadow(Hook::Cache, faulted) {
            let messages = messages.to_vec();
            shadow.compare(&self.0.shared.observer, &lookup, async move {
                ask.decide(&messages).await
            });
        }
        self.record(Hook::Cache, || Heard::CacheDecide {
            messages: messages.to_vec(),
            answer: lookup.as_ref().ok().cloned(),
        });
        lookup
    }

    /// Which messages stay. Fails where even those that must stay exceed the context.
    pub async fn trim(
        &self,
        messages: &[Message],
        previous_first: Option<u64>,
    ) -> Result<Trimmed, Denied> {
        let layout = self.layout().await?;
        let low_water = self.0.shared.settings.low_water;
        let budget = Budget::new(&self.0.facts, &layout, low_water, messages)?;
        let asked = self
            .asked(Hook::Trim)
            .trim(messages, budget, previous_first)
            .await;
        let faulted = is_fault(&asked);
        let trimmed = self.settle(Hook::Trim, asked, || native::trim(messages, &budget));
        if let Some((shadow, ask)) = self.shadow(Hook::Trim, faulted) {
            let messages = messages.to_vec();
            shadow.compare(&self.0.shared.observer, &trimmed, async move {
                ask.trim(&messages, budget, previous_first).await
            });
        }
        self.record(Hook::Trim, || Heard::Trim {
            messages: messages.to_vec(),
            budget,
            previous_first,
            answer: trimmed.as_ref().ok().cloned(),
        });
        trimmed
    }

    /// The final prompt, from the messages that trimming kept.
    pub async fn build(&self, kept: &[Message]) -> Result<Prompt, Denied> {
        let declared = self.declared().await?;
        let prompt = prompting::build(self, kept, declared).await;
        self.record(Hook::Prompt, || Heard::Build {
            messages: kept.to_vec(),
            layout: declared.layout.clone(),
            answer: prompt.as_ref().ok().cloned(),
        });
        prompt
    }

    /// The filter that this answer goes through.
    pub async fn open_filter(&self) -> Result<Filter, Denied> {
        let tape = self.recorder().map(|recorder| {
            let call = Heard::Filter {
                chunks: Vec::new(),
                finish: None,
                answer: Some(Filtered::default()),
            };
            Tape::new(recorder.clone(), self.line(Hook::Filter, call))
        });
        let beside = self
            .shadow(Hook::Filter, false)
            .map(|(shadow, ask)| Beside::new(shadow.clone(), ask));
        Filter::open(&self.0, tape, beside).await
    }

    /// Time to live, or `None` where the answer is not to be kept; a fault keeps nothing.
    /// `messages` are those that `cache_decide` saw.
    pub async fn cache_admit(
        &self,
        messages: &[Message],
        answer: &str,
        outcome: AnswerOutcome,
    ) -> Option<Duration> {
        let asked = self
            .asked(Hook::Cache)
            .admit(messages, answer, outcome)
            .await;
        let faulted = is_fault(&asked);
        let settled = self.settle(Hook::Cache, asked, || None);
        if let Some((shadow, ask)) = self.shadow(Hook::Cache, faulted) {
            let (messages, answer) = (messages.to_vec(), answer.to_owned());
            shadow.compare(&self.0.shared.observer, &settled, async move {
                ask.admit(&messages, &answer, outcome).await
            });
        }
        let ttl = settled.ok().flatten();
        self.record(Hook::Cache, || Heard::CacheAdmit {
            messages: messages.to_vec(),
            text: answer.to_owned(),
            outcome,
            answer: ttl,
        });
        ttl
    }

    fn recorder(&self) -> Option<&Recorder> {
        let recorder = self.0.shared.recorder.as_ref();
        recorder.filter(|recorder| !self.0.made_up && !recorder.is_over())
    }

    /// Costs nothing where nothing is recorded.
    fn record(&self, hook: Hook, call: impl FnOnce() -> Heard) {
        if let Some(recorder) = self.recorder() {
            recorder.send(self.line(hook, call()));
        }
    }

    fn line(&self, hook: Hook, call: Heard) -> Line {
        let revision = self.0.generation.of(hook);
        let by = (revision.name.as_str(), revision.sha256.as_str());
        recording::line(self.generation(), by, self.0.facts.clone(), call)
    }

    fn asked(&self, hook: Hook) -> Asked {
        self.0.asked_of(self.0.generation.of(hook))
    }

    /// The hook's shadow, and how to ask it. Its calls are not part of the request's trace: they
    /// may outlive it. What took the place of a faulted policy is compared with nothing.
    fn shadow(&self, hook: Hook, faulted: bool) -> Option<(&Arc<Shadow>, Asked)> {
        let compared = !faulted && !self.0.made_up;
        let shadow = self.0.generation.shadow(hook).filter(|_| compared)?;
        let asked = Asked {
            span: Span::none(),
            live: false,
            ..self.0.asked_of(&shadow.revision)
        };
        Some((shadow, asked))
    }

    fn settle<R>(
        &self,
        hook: Hook,
        asked: Option<Result<R, RunError>>,
        native: impl FnOnce() -> R,
    ) -> Result<R, Denied> {
        self.0.settle(hook, asked, native)
    }
}

impl Pinned {
    fn asked_of(&self, revision: &Arc<Revision>) -> Asked {
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
    fn settle<R>(
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

    fn builder(&self) -> std::sync::MutexGuard<'_, Option<Instance>> {
        self.builder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
