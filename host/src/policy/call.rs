//! One call of one policy: instance, span, time, outcome.

use std::sync::Arc;
use std::time::Instant;

use tracing::{Span, field::Empty};

use super::fault::{Denied, RunError};
use super::generation::Revision;
use super::guest::Instance;
use super::pool::Pool;
use super::settings::Fail;
use super::stages::{Asked, Shared};
use super::types::CallFacts;

/// What a policy is asked; the span's name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Guard,
    CacheDecide,
    Layout,
    Trim,
    Build,
    CacheAdmit,
    FilterOpen,
}

/// A call in progress. Dropped without [`Call::end`] (the client left) its instance is gone.
pub(super) struct Call {
    pub instance: Instance,
    pub span: Span,
    revision: Arc<Revision>,
    pool: Arc<Pool>,
    start: Instant,
}

impl Call {
    /// Takes an instance. `None` where native code serves the hook.
    pub(super) async fn start(asked: &Asked, ask: Ask) -> Option<Result<Self, RunError>> {
        let revision = &asked.revision;
        let pool = revision.pool.clone()?;
        let start = Instant::now();
        let span = ask.span(asked);
        Some(match pool.take().await {
            Ok(mut instance) => {
                instance.allow(pool.template.limits.call);
                Ok(Self {
                    instance,
                    span,
                    revision: revision.clone(),
                    pool,
                    start,
                })
            }
            Err(fault) => {
                span.record("stent.policy.outcome", fault.kind());
                Err(fault)
            }
        })
    }

    /// Goes on with the instance of an earlier call of the same request.
    pub(super) fn resume(
        asked: &Asked,
        ask: Ask,
        mut instance: Instance,
    ) -> Option<Result<Self, RunError>> {
        let revision = &asked.revision;
        let pool = revision.pool.clone()?;
        instance.allow(pool.template.limits.call);
        let (start, span) = (Instant::now(), ask.span(asked));
        Some(Ok(Self {
            instance,
            span,
            revision: revision.clone(),
            pool,
            start,
        }))
    }

    /// Writes the outcome down and gives the instance to the janitor.
    pub(super) fn end<R>(self, shared: &Shared, result: &Result<R, RunError>) {
        self.note(shared, result);
        self.pool.spent(self.instance);
    }

    /// Writes the outcome down and keeps the instance for the request's next call.
    pub(super) fn keep<R>(self, shared: &Shared, result: &Result<R, RunError>) -> Instance {
        self.note(shared, result);
        self.instance
    }

    fn note<R>(&self, shared: &Shared, result: &Result<R, RunError>) {
        let outcome = match result {
            Ok(_) => "ok",
            Err(fault) => fault.kind(),
        };
        self.span.record("stent.policy.outcome", outcome);
        let memory_peak = self.instance.memory_peak();
        let peak = i64::try_from(memory_peak).unwrap_or(i64::MAX);
        self.span.record("stent.policy.memory_peak", peak);
        let elapsed = self.start.elapsed();
        let (hook, policy) = (self.revision.hook, self.revision.name.as_str());
        shared.observer.called(&CallFacts {
            hook,
            policy,
            outcome,
            elapsed,
            memory_peak,
        });
    }
}

impl Ask {
    /// `policy trim` and its like; numbers are i64, because others are exported as strings.
    fn span(self, asked: &Asked) -> Span {
        let (revision, generation) = (&asked.revision, asked.generation);
        macro_rules! span {
            ($name:literal) => {
                tracing::info_span!(
                    target: "stent::policy",
                    parent: &asked.span,
                    $name,
                    "stent.policy.hook" = revision.hook.as_str(),
                    "stent.policy.name" = revision.name,
                    "stent.policy.version" = revision.version,
                    "stent.policy.sha256" = revision.sha256,
                    "stent.policy.generation" = i64::try_from(generation).unwrap_or(i64::MAX),
                    "stent.policy.outcome" = Empty,
                    "stent.policy.memory_peak" = Empty,
                )
            };
        }
        match self {
            Ask::Guard => span!("policy guard"),
            Ask::CacheDecide => span!("policy cache.decide"),
            Ask::Layout => span!("policy layout"),
            Ask::Trim => span!("policy trim"),
            Ask::Build => span!("policy build"),
            Ask::CacheAdmit => span!("policy cache.admit"),
            Ask::FilterOpen => span!("policy filter"),
        }
    }
}

/// A fault: counted, said, perhaps the last straw for the breaker. What happens to the request is
/// the operator's choice.
pub(super) fn faulted(shared: &Shared, revision: &Revision, fault: RunError) -> Result<(), Denied> {
    let (hook, policy) = (revision.hook, revision.name.as_str());
    tracing::warn!(target: "stent::policy", %hook, policy, kind = fault.kind(),
        "the {hook} policy {policy} failed: {fault}");
    let breaker = &shared.settings.breaker;
    if revision
        .breaker
        .fault(Instant::now(), breaker.faults, breaker.window)
    {
        shared.trip(hook, &revision.sha256);
    }
    match revision.fail {
        Fail::Open => Ok(()),
        Fail::Closed => Err(Denied::Refused {
            hook,
            policy: policy.to_owned(),
            error: fault,
        }),
    }
}
