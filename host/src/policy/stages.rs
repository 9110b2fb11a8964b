//! The stages of a request. Each asks a guest, verifies what it answered, and knows what decides
//! when it fails.

mod ask;
mod encode;
mod filter;
#[cfg(test)]
mod hostile;
mod pieces;
mod pinned;
mod prompting;
mod verify;

use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::Span;

use super::budget::Budget;
use super::call::{Ask, is_fault};
use super::fault::{Denied, RunError};
use super::generation::Generation;
use super::native;
use super::recording::{self, Filtered, Heard, Line, Recorder, Tape};
use super::shadow::{Beside, Shadow};
use super::types::{AnswerOutcome, Facts, Hook, Layout, Lookup, Prompt, Trimmed, Verdict};
use crate::types::Message;

pub(super) use ask::Asked;
pub(super) use filter::Active as ActiveFilter;
pub use filter::Filter;
pub(super) use pieces::Pieces;
pub(super) use pinned::Shared;
use pinned::{Declared, Pinned};
pub(super) use prompting::case_prompt;

/// One generation of policies, pinned for a request's whole life, with what is known about the
/// request. Cloning is cheap.
#[derive(Clone)]
pub struct Snapshot(Arc<Pinned>);

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

    /// Share of the prompt budget, in percent, that trimming cuts down to.
    pub fn low_water(&self) -> u8 {
        self.0.shared.settings.low_water
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
        self.beside(Ask::Guard, faulted, &verdict, |shadow| {
            let messages = messages.to_vec();
            async move { shadow.guard(&messages).await }
        });
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
        self.beside(Ask::CacheDecide, faulted, &lookup, |shadow| {
            let messages = messages.to_vec();
            async move { shadow.decide(&messages).await }
        });
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
        self.beside(Ask::Trim, faulted, &trimmed, |shadow| {
            let messages = messages.to_vec();
            async move { shadow.trim(&messages, budget, previous_first).await }
        });
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
        self.beside(Ask::CacheAdmit, faulted, &settled, |shadow| {
            let (messages, answer) = (messages.to_vec(), answer.to_owned());
            async move { shadow.admit(&messages, &answer, outcome).await }
        });
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

    /// Asks the hook's shadow the same, where it has one, and compares.
    fn beside<R, F>(
        &self,
        ask: Ask,
        faulted: bool,
        live: &Result<R, Denied>,
        question: impl FnOnce(Asked) -> F,
    ) where
        R: Clone + PartialEq + Send + 'static,
        F: Future<Output = Option<Result<R, RunError>>> + Send + 'static,
    {
        if let Some((shadow, asked)) = self.shadow(ask.hook(), faulted) {
            let observer = &self.0.shared.observer;
            shadow.compare(ask, observer, live.clone(), question(asked));
        }
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
