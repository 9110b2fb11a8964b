//! The output filter of one answer: fed with text as it is produced.

use std::time::{Duration, Instant};

use tracing::{Instrument, Span};
use wasmtime::component::ResourceAny;

use super::{Pinned, ask::wrong_hook, is_fault};
use crate::policy::bindings::v0_1::exports::stent::policy::output_filter as wit;
use crate::policy::call::{self, Ask, Call, Spent, faulted};
use crate::policy::fault::{Denied, RunError};
use crate::policy::guest::{HookGuest, Instance};
use crate::policy::recording::Tape;
use crate::policy::shadow::Beside;
use crate::policy::stages::Asked;
use crate::policy::stages::verify::emitted;
use crate::policy::types::{Hook, Step, StopFacts};
use crate::types::Finish;

/// Longest reason that is taken for a word.
const REASON_BYTES: usize = 32;

/// The output filter of one answer. After a fault with `fail = "open"` text passes as it is.
pub struct Filter {
    state: State,
    tape: Option<Tape>,
    beside: Option<Beside>,
}

enum State {
    /// No filter, or one that failed open.
    Passthrough,
    Active(Box<Active>),
    Closed,
}

/// A filter at work, with its faults as they are.
pub(in crate::policy) struct Active {
    /// Its pool's until it is dropped.
    instance: Option<Instance>,
    guest: wit::Guest,
    filter: ResourceAny,
    asked: Asked,
    span: Span,
    /// Bytes that it was fed, and that it emitted.
    fed: usize,
    emitted: usize,
    /// Time in its calls, and how the last one ended.
    spent: Duration,
    outcome: &'static str,
    /// What went in and did not come out, as long as the filter changed nothing; a filter that
    /// fails open gives it back. After the first change there is no telling.
    held: Option<String>,
}

impl Filter {
    /// Whether a policy sees the answer before its reader does.
    pub fn works(&self) -> bool {
        !matches!(self.state, State::Passthrough)
    }

    pub(super) async fn open(
        pinned: &Pinned,
        tape: Option<Tape>,
        beside: Option<Beside>,
    ) -> Result<Self, Denied> {
        let asked = pinned.asked_of(pinned.generation.of(Hook::Filter));
        let opened = Active::open(&asked).await;
        let beside = beside.filter(|_| !is_fault(&opened));
        let opened = opened.map(|active| active.map(|it| State::Active(Box::new(it))));
        let state = pinned.settle(Hook::Filter, opened, || State::Passthrough)?;
        Ok(Self {
            state,
            tape,
            beside,
        })
    }

    /// True where chunks may be sent on without asking.
    pub fn is_passthrough(&self) -> bool {
        matches!(self.state, State::Passthrough) && self.beside.is_none()
    }

    /// Feeds whole characters.
    pub async fn push(&mut self, chunk: &str) -> Result<Step, Denied> {
        if let Some(beside) = &mut self.beside {
            beside.heard(chunk);
        }
        let step = self.step(chunk).await;
        if let Some(beside) = &mut self.beside
            && let Ok(step) = &step
        {
            beside.said(step);
            if let Step::Stop { .. } = step {
                self.compare(None);
            }
        }
        if let Some(tape) = &mut self.tape {
            tape.heard(chunk);
            match &step {
                Ok(Step::Emit(text)) => tape.said(Some(text), None),
                Ok(Step::Stop { emit, reason }) => tape.said(Some(emit), Some(reason)),
                Err(_) => tape.said(None, None),
            }
        }
        step
    }

    /// What was held back, and closing words. The filter is not asked again.
    pub async fn finish(&mut self, why: Finish) -> Result<String, Denied> {
        let rest = self.rest(why).await;
        if let Ok(text) = &rest {
            if let Some(beside) = &mut self.beside {
                beside.said(&Step::Emit(text.clone()));
            }
            self.compare(Some(why));
        }
        if let Some(mut tape) = self.tape.take() {
            tape.ended(why);
            tape.said(rest.as_deref().ok(), None);
        }
        rest
    }

    /// Only whole answers are compared: an answer that the client left is not.
    fn compare(&mut self, why: Option<Finish>) {
        if let Some(beside) = self.beside.take() {
            beside.compare(why);
        }
    }

    async fn step(&mut self, chunk: &str) -> Result<Step, Denied> {
        let active = match &mut self.state {
            State::Passthrough => return Ok(Step::Emit(chunk.to_owned())),
            State::Closed => return Ok(Step::Emit(String::new())),
            State::Active(active) => active,
        };
        match active.push(chunk).await {
            Ok(Step::Emit(text)) => Ok(Step::Emit(text)),
            Ok(Step::Stop { emit, reason }) => {
                active.stopped(&reason);
                self.state = State::Closed;
                Ok(Step::Stop { emit, reason })
            }
            Err(fault) => Ok(Step::Emit(self.failed(fault, chunk)?)),
        }
    }

    async fn rest(&mut self, why: Finish) -> Result<String, Denied> {
        let State::Active(active) = &mut self.state else {
            return Ok(String::new());
        };
        match active.finish(why).await {
            Ok(text) => {
                self.state = State::Closed;
                Ok(text)
            }
            Err(fault) => self.failed(fault, ""),
        }
    }

    /// Passes on what can be told to be missing, if the operator wants that.
    fn failed(&mut self, fault: RunError, chunk: &str) -> Result<String, Denied> {
        let State::Active(mut active) = std::mem::replace(&mut self.state, State::Closed) else {
            return Ok(String::new());
        };
        self.beside = None;
        faulted(&active.asked, fault)?;
        self.state = State::Passthrough;
        Ok(active.held.take().unwrap_or_default() + chunk)
    }
}

impl Active {
    /// A filter for one answer. `None` where native code serves the hook.
    pub(in crate::policy) async fn open(asked: &Asked) -> Option<Result<Self, RunError>> {
        let mut call = match Call::start(asked, Ask::Filter).await? {
            Ok(call) => call,
            Err(fault) => return Some(Err(fault)),
        };
        let span = call.span.clone();
        let result = async {
            let HookGuest::Filter(guest) = &call.instance.hook else {
                return Err(wrong_hook());
            };
            let guest = guest.clone();
            let request = asked.request(&mut call.instance);
            let request = request.map_err(|e| call.instance.fault(&e))?;
            let store = &mut call.instance.store;
            let opened = guest.filter().call_open(store, request).await;
            let filter = call.instance.flatten(opened)?;
            Ok((guest, filter))
        }
        .instrument(span.clone())
        .await;
        Some(match result {
            Ok((guest, filter)) => {
                let (instance, spent) = call.go_on();
                Ok(Self {
                    instance: Some(instance),
                    guest,
                    filter,
                    asked: asked.clone(),
                    span,
                    fed: 0,
                    emitted: 0,
                    spent,
                    outcome: "ok",
                    held: Some(String::new()),
                })
            }
            Err(fault) => {
                let result = Err(fault);
                call.end(&result);
                result
            }
        })
    }

    /// The most memory that its instance had so far, in bytes.
    pub(in crate::policy) fn memory_peak(&self) -> usize {
        self.instance.as_ref().map_or(0, |it| it.memory_peak())
    }

    /// What its last call burnt; 0 where nobody counts.
    pub(in crate::policy) fn fuel(&self) -> u64 {
        self.instance.as_ref().map_or(0, |it| it.fuel())
    }

    pub(in crate::policy) async fn push(&mut self, chunk: &str) -> Result<Step, RunError> {
        let start = Instant::now();
        let step = self.pushed(chunk).await;
        self.note(start, &step);
        step
    }

    pub(in crate::policy) async fn finish(&mut self, why: Finish) -> Result<String, RunError> {
        let start = Instant::now();
        let text = self.finished(why).await;
        self.note(start, &text);
        text
    }

    fn note<R>(&mut self, start: Instant, result: &Result<R, RunError>) {
        self.spent += start.elapsed();
        self.outcome = call::outcome(result);
    }

    /// The WIT promises the reason to the operator; he is shown it as long as it is a word of the
    /// policy's own, since anything else could quote the answer.
    fn stopped(&self, reason: &str) {
        let part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_word = (1..=REASON_BYTES).contains(&reason.len()) && reason.chars().all(part);
        let heard = self.instance.as_ref().map(|it| &it.store.data().heard);
        let is_own = heard.is_some_and(|heard| !heard.knows(reason));
        let reason = if is_word && is_own { reason } else { "unnamed" };
        let policy = self.asked.revision.name.as_str();
        tracing::info!(target: "stent::policy", policy, reason,
            "the filter {policy} ended an answer: {reason}");
        let stop = StopFacts { policy, reason };
        self.asked.shared.observer.stopped(&stop);
    }

    async fn pushed(&mut self, chunk: &str) -> Result<Step, RunError> {
        let (guest, filter) = (self.guest.clone(), self.filter);
        let (methods, span) = (guest.filter(), self.span.clone());
        let instance = self.allowed()?;
        instance.store.data_mut().heard.piece(chunk);
        let called = methods.call_push(&mut instance.store, filter, chunk);
        let called = called.instrument(span).await;
        let step = instance.flatten(called)?;
        match step {
            wit::Step::Emit(text) => {
                self.bounded(&text, chunk)?;
                self.held = self
                    .held
                    .take()
                    .and_then(|held| behind(held + chunk, &text));
                Ok(Step::Emit(text))
            }
            wit::Step::Stop(closing) => {
                self.bounded(&closing.emit, chunk)?;
                let reason = crate::policy::words::head(&closing.reason, 200).to_owned();
                Ok(Step::Stop {
                    emit: closing.emit,
                    reason,
                })
            }
        }
    }

    async fn finished(&mut self, why: Finish) -> Result<String, RunError> {
        let (guest, filter) = (self.guest.clone(), self.filter);
        let (methods, span) = (guest.filter(), self.span.clone());
        let instance = self.allowed()?;
        let called = methods.call_finish(&mut instance.store, filter, why.into());
        let called = called.instrument(span).await;
        let text = instance.flatten(called)?;
        self.bounded(&text, "")?;
        Ok(text)
    }

    /// The instance, with the allowance of one call.
    fn allowed(&mut self) -> Result<&mut Instance, RunError> {
        let limit = self.asked.shared.settings.limits.call;
        let instance = self.instance.as_mut().ok_or_else(wrong_hook)?;
        instance.allow(limit);
        Ok(instance)
    }

    fn bounded(&mut self, text: &str, chunk: &str) -> Result<(), RunError> {
        self.fed += chunk.len();
        emitted(text, self.fed, self.emitted)?;
        self.emitted += text.len();
        Ok(())
    }
}

/// One span and one count for all calls of an answer's filter; the janitor gets its instance.
impl Drop for Active {
    fn drop(&mut self) {
        let spent = Spent {
            elapsed: self.spent,
            memory_peak: self.memory_peak(),
            fuel: 0,
        };
        call::note(&self.asked, &self.span, self.outcome, spent);
        if let (Some(instance), Some(pool)) = (self.instance.take(), &self.asked.revision.pool) {
            pool.spent(instance);
        }
    }
}

/// What is left of `all` behind `emitted`; `None` where the filter changed something.
fn behind(all: String, emitted: &str) -> Option<String> {
    all.strip_prefix(emitted).map(str::to_owned)
}
