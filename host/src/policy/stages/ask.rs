//! One question to one revision, its answer verified. Live policies and shadows are asked alike.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tracing::Instrument;
use wasmtime::component::Resource;

use super::Shared;
use crate::policy::bindings::v0_1::exports::stent::policy as wit;
use crate::policy::bindings::v0_1::stent::policy::types as wit_types;
use crate::policy::budget::Budget;
use crate::policy::call::{Ask, Call, note_remembered};
use crate::policy::fault::RunError;
use crate::policy::generation::Revision;
use crate::policy::guest::{HookGuest, Instance};
use crate::policy::host::{AnswerHandle, RequestHandle, TranscriptHandle};
use crate::policy::remembered::{Asking, Decided, Question};
use crate::policy::types::{
    AnswerOutcome, Basis, CacheKey, Facts, Lookup, Scope, Trimmed, Verdict,
};
use crate::types::{Finish, Message};

/// Longest text of a guard, and most and longest parts of a cache key.
const VERDICT_BYTES: usize = 64 << 10;
const KEY_PARTS: usize = 64;
const KEY_BYTES: usize = 64 << 10;

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
            |lookup| lookup_of(lookup, self.revision.granted)
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

fn verdict(verdict: wit::guard::Verdict) -> Result<Verdict, RunError> {
    let bounded = |text: String| match text.len() {
        0 => Err(RunError::BadResult("the verdict's text is empty".into())),
        bytes if bytes > VERDICT_BYTES => Err(RunError::BadResult(format!(
            "the verdict's text has {bytes} bytes, at most {VERDICT_BYTES} are taken"
        ))),
        _ => Ok(text),
    };
    Ok(match verdict {
        wit::guard::Verdict::Allow => Verdict::Allow,
        wit::guard::Verdict::Rewrite(text) => Verdict::Rewrite(bounded(text)?),
        wit::guard::Verdict::Reply(text) => Verdict::Reply(bounded(text)?),
        wit::guard::Verdict::Refuse(text) => Verdict::Refuse(bounded(text)?),
    })
}

/// The indices that a decision names: ids must exist and rise.
fn kept(
    messages: &[Message],
    decision: wit::session_trimmer::Decision,
) -> Result<Vec<usize>, RunError> {
    use wit::session_trimmer::Decision;
    let unknown = |id| RunError::BadResult(format!("there is no message with id {id}"));
    let at = |id: u64| {
        messages
            .iter()
            .position(|m| m.id == id)
            .ok_or_else(|| unknown(id))
    };
    match decision {
        Decision::KeepAll => Ok((0..messages.len()).collect()),
        Decision::KeepFrom(id) => {
            let from = at(id)?;
            Ok((0..messages.len())
                .filter(|&i| i >= from || messages[i].pinned)
                .collect())
        }
        Decision::Keep(ids) => {
            let kept = ids.into_iter().map(at).collect::<Result<Vec<_>, _>>()?;
            match kept.is_sorted_by(|a, b| a < b) {
                true => Ok(kept),
                false => Err(RunError::BadResult("the kept ids do not rise".into())),
            }
        }
    }
}

fn lookup_of(lookup: wit::cache::Lookup, granted: Scope) -> Result<Lookup, RunError> {
    let key = match lookup {
        wit::cache::Lookup::Bypass => return Ok(Lookup::Bypass),
        wit::cache::Lookup::By(key) => key,
    };
    let scope = Scope::from(key.scope);
    if scope > granted {
        return Err(RunError::BadResult(format!(
            "it asks for scope {}, policies.cache.scope grants {}",
            scope.as_str(),
            granted.as_str()
        )));
    }
    let basis = match key.basis {
        wit::cache::Basis::ExactPrompt => Basis::ExactPrompt,
        wit::cache::Basis::Parts(parts) => {
            let bytes = parts.iter().map(String::len).sum::<usize>();
            if bytes == 0 || bytes > KEY_BYTES || parts.len() > KEY_PARTS {
                return Err(RunError::BadResult(format!(
                    "the key has {} parts of {bytes} bytes, expected 1 to {KEY_PARTS} parts of 1 \
                     to {KEY_BYTES} bytes",
                    parts.len()
                )));
            }
            Basis::Parts(parts)
        }
    };
    Ok(Lookup::By(CacheKey {
        basis,
        scope,
        max_age: Duration::from_millis(key.max_age_ms),
    }))
}

impl From<Finish> for wit_types::Finish {
    fn from(finish: Finish) -> Self {
        match finish {
            Finish::Stop => Self::Stop,
            Finish::Length => Self::Length,
            Finish::Filtered => Self::Filtered,
            Finish::Cancelled => Self::Cancelled,
            Finish::Error => Self::Error,
        }
    }
}
