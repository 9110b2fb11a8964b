//! One question to one revision, its answer verified. Live policies and shadows are asked alike.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tracing::Instrument;
use wasmtime::component::Resource;

use super::Shared;
use super::verify::{kept, lookup, verdict};
use crate::policy::bindings::v0_1::exports::stent::policy as wit;
use crate::policy::budget::Budget;
use crate::policy::call::{Ask, Call, note_remembered};
use crate::policy::fault::RunError;
use crate::policy::generation::Revision;
use crate::policy::guest::{HookGuest, Instance};
use crate::policy::host::{AnswerHandle, RequestHandle, TranscriptHandle};
use crate::policy::remembered::{Asking, Decided, Question};
use crate::policy::types::{AnswerOutcome, Facts, Lookup, Trimmed, Verdict};
use crate::types::Message;

/// Who is asked, and about which request. `None` from a question: native code decides.
#[derive(Clone)]
pub(in crate::policy) struct Asked {
    pub revision: Arc<Revision>,
    pub generation: u64,
    pub facts: Arc<Facts>,
    pub shared: Arc<Shared>,
    /// Parent of the call's own span.
    pub span: tracing::Span,
    /// A request depends on the answer.
    pub live: bool,
    /// Set when a policy of the request failed.
    pub faulted: Arc<AtomicBool>,
}

/// Asks and verifies: the one shape that all questions have. The call ends whatever comes out.
/// Before, `$keep` sees call and result.
macro_rules! ask {
    ($self:ident, $ask:expr, $hook:ident, |$call:ident, $result:ident| $keep:expr, |$guest:ident, $instance:ident| $called:expr, $verify:expr) => {{
        let mut call = match Call::start($self, $ask).await? {
            Ok(call) => call,
            Err(fault) => return Some(Err(fault)),
        };
        let span = call.span.clone();
        let result = async {
            let $instance = &mut call.instance;
            let HookGuest::$hook($guest) = &$instance.hook else {
                return Err(wrong_hook());
            };
            let $guest = $guest.clone();
            let called = $called;
            $instance.flatten(called).and_then($verify)
        }
        .instrument(span)
        .await;
        {
            let ($call, $result) = (&call, &result);
            $keep
        }
        call.end(&result);
        Some(result)
    }};
}

impl Asked {
    pub async fn guard(&self, messages: &[Message]) -> Option<Result<Verdict, RunError>> {
        let question = self.question(Ask::Guard, |it| it.messages(messages));
        if let Some(verdict) = self.recall(Ask::Guard, question.as_ref()) {
            return Some(Ok(verdict));
        }
        ask!(
            self,
            Ask::Guard,
            Guard,
            |call, result| self.keep(question, call, result),
            |guest, instance| {
                let request = self.request(instance);
                let all = transcript(instance, messages);
                match (request, all) {
                    (Ok(request), Ok(all)) => {
                        guest.call_check(&mut instance.store, request, all).await
                    }
                    (Err(error), _) | (_, Err(error)) => Err(error),
                }
            },
            verdict
        )
    }

    pub async fn decide(&self, messages: &[Message]) -> Option<Result<Lookup, RunError>> {
        let question = self.question(Ask::CacheDecide, |it| it.messages(messages));
        if let Some(lookup) = self.recall(Ask::CacheDecide, question.as_ref()) {
            return Some(Ok(lookup));
        }
        ask!(
            self,
            Ask::CacheDecide,
            Cache,
            |call, result| self.keep(question, call, result),
            |guest, instance| {
                match (self.request(instance), transcript(instance, messages)) {
                    (Ok(request), Ok(all)) => {
                        guest.call_decide(&mut instance.store, request, all).await
                    }
                    (Err(error), _) | (_, Err(error)) => Err(error),
                }
            },
            |answer| lookup(answer, self.revision.granted)
        )
    }

    pub async fn admit(
        &self,
        messages: &[Message],
        answer: &str,
        outcome: AnswerOutcome,
    ) -> Option<Result<Option<Duration>, RunError>> {
        let outcome = wit::cache::Outcome {
            finish: outcome.finish.into(),
            prompt_tokens: outcome.prompt_tokens,
            output_tokens: outcome.output_tokens,
            elapsed_ms: u32::try_from(outcome.elapsed.as_millis()).unwrap_or(u32::MAX),
        };
        ask!(
            self,
            Ask::CacheAdmit,
            Cache,
            |_call, _result| {},
            |guest, instance| {
                let answer = instance
                    .store
                    .data_mut()
                    .table
                    .push(AnswerHandle(answer.into()));
                match (
                    self.request(instance),
                    transcript(instance, messages),
                    answer,
                ) {
                    (Ok(request), Ok(all), Ok(answer)) => {
                        guest
                            .call_admit(&mut instance.store, request, all, answer, outcome)
                            .await
                    }
                    (Err(error), ..) | (_, Err(error), _) => Err(error),
                    (.., Err(error)) => Err(error.into()),
                }
            },
            |admission| Ok(match admission {
                wit::cache::Admission::Skip => None,
                wit::cache::Admission::Store(ms) => Some(Duration::from_millis(ms)),
            })
        )
    }

    pub async fn trim(
        &self,
        messages: &[Message],
        budget: Budget,
        previous_first: Option<u64>,
    ) -> Option<Result<Trimmed, RunError>> {
        let asked = wit::session_trimmer::Budget {
            max_tokens: budget.max_tokens,
            low_water: budget.low_water,
            per_message: budget.per_message,
            previous_first,
        };
        let question = self.question(Ask::Trim, |it| {
            it.messages(messages)
                .number(u64::from(budget.max_tokens))
                .number(u64::from(budget.low_water))
                .number(u64::from(budget.per_message))
                .number(u64::from(previous_first.is_some()))
                .number(previous_first.unwrap_or_default())
        });
        if let Some(trimmed) = self.recall(Ask::Trim, question.as_ref()) {
            return Some(Ok(trimmed));
        }
        ask!(
            self,
            Ask::Trim,
            Trim,
            |call, result| self.keep(question, call, result),
            |guest, instance| {
                match (self.request(instance), transcript(instance, messages)) {
                    (Ok(request), Ok(all)) => {
                        guest
                            .call_trim(&mut instance.store, request, asked, all)
                            .await
                    }
                    (Err(error), _) | (_, Err(error)) => Err(error),
                }
            },
            |decision| budget.verify(messages, kept(messages, decision)?)
        )
    }

    pub(super) fn question(
        &self,
        ask: Ask,
        about: impl FnOnce(Asking) -> Asking,
    ) -> Option<Question> {
        self.shared.memory.question(self, ask, about)
    }

    pub(super) fn keep<R: Decided>(
        &self,
        question: Option<Question>,
        call: &Call,
        result: &Result<R, RunError>,
    ) {
        if let Ok(decision) = result
            && call.is_repeatable()
        {
            self.shared.memory.keep(question, decision);
        }
    }

    /// What was decided before, in place of a call.
    pub(super) fn recall<R: Decided>(&self, ask: Ask, question: Option<&Question>) -> Option<R> {
        let known = self.shared.memory.recall(question)?;
        note_remembered(self, ask);
        Some(known)
    }

    /// The request as a handle of this instance.
    pub(super) fn request(
        &self,
        instance: &mut Instance,
    ) -> wasmtime::Result<Resource<RequestHandle>> {
        let handle = RequestHandle {
            facts: self.facts.clone(),
            granted: self.revision.granted,
        };
        Ok(instance.store.data_mut().table.push(handle)?)
    }
}

pub(super) fn transcript(
    instance: &mut Instance,
    messages: &[Message],
) -> wasmtime::Result<Resource<TranscriptHandle>> {
    Ok(instance
        .store
        .data_mut()
        .table
        .push(TranscriptHandle(messages.to_vec()))?)
}

pub(super) fn wrong_hook() -> RunError {
    RunError::BadResult("the instance serves another hook".into())
}
