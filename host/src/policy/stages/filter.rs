//! The output filter of one answer: fed with text as it is produced.

use std::sync::Arc;

use tracing::{Instrument, Span};
use wasmtime::component::ResourceAny;

use super::{Pinned, Shared, ask::wrong_hook};
use crate::policy::bindings::v0_1::exports::stent::policy::output_filter as wit;
use crate::policy::call::{Ask, Call, faulted};
use crate::policy::fault::{Denied, RunError};
use crate::policy::generation::Revision;
use crate::policy::guest::{HookGuest, Instance, flatten};
use crate::policy::types::{Hook, Step};
use crate::types::Finish;

/// How much longer than its input a filter's output may be.
const EXTRA_BYTES: usize = 64 << 10;

/// The output filter of one answer. After a fault with `fail = "open"` text passes as it is.
pub struct Filter(State);

enum State {
    /// No filter, or one that failed open.
    Passthrough,
    Active(Box<Active>),
    Closed,
}

struct Active {
    instance: Instance,
    guest: wit::Guest,
    filter: ResourceAny,
    revision: Arc<Revision>,
    shared: Arc<Shared>,
    span: Span,
    /// What went in and did not come out, as long as the filter changed nothing; a filter that
    /// fails open gives it back. After the first change there is no telling.
    held: Option<String>,
}

impl Filter {
    pub(super) async fn open(pinned: &Pinned) -> Result<Self, Denied> {
        let revision = pinned.generation.of(Hook::Filter);
        let asked = pinned.asked_of(revision);
        let opened = async {
            let call = Call::start(&asked, Ask::FilterOpen).await?;
            let mut call = match call {
                Ok(call) => call,
                Err(fault) => return Some(Err(fault)),
            };
            let span = call.span.clone();
            let result = async {
                let HookGuest::Filter(guest) = &call.instance.hook else {
                    return Err(wrong_hook());
                };
                let guest = guest.clone();
                let request = asked
                    .request(&mut call.instance)
                    .map_err(|e| RunError::of(&e))?;
                let store = &mut call.instance.store;
                let filter = flatten(guest.filter().call_open(store, request).await)?;
                Ok((guest, filter))
            }
            .instrument(span.clone())
            .await;
            Some(match result {
                Ok((guest, filter)) => Ok(Self(State::Active(Box::new(Active {
                    instance: call.keep(&asked.shared, &Ok(())),
                    guest,
                    filter,
                    revision: revision.clone(),
                    shared: asked.shared.clone(),
                    span,
                    held: Some(String::new()),
                })))),
                Err(fault) => {
                    let result = Err::<(), _>(fault);
                    call.end(&asked.shared, &result);
                    result.map(|()| Self(State::Passthrough))
                }
            })
        };
        pinned.settle(Hook::Filter, opened.await, || Self(State::Passthrough))
    }

    /// True where chunks may be sent on without asking.
    pub fn is_passthrough(&self) -> bool {
        matches!(self.0, State::Passthrough)
    }

    /// Feeds whole characters.
    pub async fn push(&mut self, chunk: &str) -> Result<Step, Denied> {
        let active = match &mut self.0 {
            State::Passthrough => return Ok(Step::Emit(chunk.to_owned())),
            State::Closed => return Ok(Step::Emit(String::new())),
            State::Active(active) => active,
        };
        match active.push(chunk).await {
            Ok(Step::Emit(text)) => Ok(Step::Emit(text)),
            Ok(stop @ Step::Stop { .. }) => {
                self.0 = State::Closed;
                Ok(stop)
            }
            Err(fault) => Ok(Step::Emit(self.failed(fault, chunk)?)),
        }
    }

    /// What was held back, and closing words. The filter is not asked again.
    pub async fn finish(&mut self, why: Finish) -> Result<String, Denied> {
        let State::Active(active) = &mut self.0 else {
            return Ok(String::new());
        };
        match active.finish(why).await {
            Ok(text) => {
                self.0 = State::Closed;
                Ok(text)
            }
            Err(fault) => self.failed(fault, ""),
        }
    }

    /// Passes on what can be told to be missing, if the operator wants that.
    fn failed(&mut self, fault: RunError, chunk: &str) -> Result<String, Denied> {
        let State::Active(active) = std::mem::replace(&mut self.0, State::Closed) else {
            return Ok(String::new());
        };
        active.span.record("stent.policy.outcome", fault.kind());
        faulted(&active.shared, &active.revision, fault)?;
        self.0 = State::Passthrough;
        Ok(active.held.unwrap_or_default() + chunk)
    }
}

impl Active {
    async fn push(&mut self, chunk: &str) -> Result<Step, RunError> {
        let limit = self.shared.settings.limits.call;
        self.instance.allow(limit);
        let (guest, filter) = (self.guest.clone(), self.filter);
        let (methods, span) = (guest.filter(), self.span.clone());
        let called = methods.call_push(&mut self.instance.store, filter, chunk);
        let step = flatten(called.instrument(span).await)?;
        match step {
            wit::Step::Emit(text) => {
                self.bounded(&text, chunk)?;
                self.held = self.held.take().and_then(|held| rest(held + chunk, &text));
                Ok(Step::Emit(text))
            }
            wit::Step::Stop(closing) => {
                self.bounded(&closing.emit, chunk)?;
                let reason = crate::policy::host::head(&closing.reason, 200).to_owned();
                Ok(Step::Stop {
                    emit: closing.emit,
                    reason,
                })
            }
        }
    }

    async fn finish(&mut self, why: Finish) -> Result<String, RunError> {
        let limit = self.shared.settings.limits.call;
        self.instance.allow(limit);
        let (guest, filter) = (self.guest.clone(), self.filter);
        let (methods, span) = (guest.filter(), self.span.clone());
        let called = methods.call_finish(&mut self.instance.store, filter, why.into());
        let text = flatten(called.instrument(span).await)?;
        self.bounded(&text, "")?;
        Ok(text)
    }

    fn bounded(&self, text: &str, chunk: &str) -> Result<(), RunError> {
        let limit = chunk.len() + self.held.as_ref().map_or(0, String::len) + EXTRA_BYTES;
        match text.len() > limit {
            false => Ok(()),
            true => Err(RunError::BadResult(format!(
                "it emits {} bytes at once, at most {limit} are taken",
                text.len()
            ))),
        }
    }
}

/// What is left of `all` behind `emitted`; `None` where the filter changed something.
fn rest(all: String, emitted: &str) -> Option<String> {
    all.strip_prefix(emitted).map(str::to_owned)
}
