//! One call of one policy: instance, span, time, outcome.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::Span;

use super::fault::{Denied, RunError};
use super::guest::Instance;
use super::pool::Pool;
use super::settings::Fail;
use super::stages::Asked;
use super::types::{CallFacts, FaultFacts, Hook};
use crate::trace::spans::{self, PolicyCall};

/// What a policy is asked; the span's name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Guard,
    CacheDecide,
    Layout,
    Trim,
    Build,
    CacheAdmit,
    Filter,
}

/// A call in progress. Dropped without [`Call::end`] (the client left) its instance is gone.
pub(super) struct Call {
    pub instance: Instance,
    pub span: Span,
    asked: Asked,
    pool: Arc<Pool>,
    start: Instant,
}

impl Call {
    /// Takes an instance. `None` where native code serves the hook.
    pub(super) async fn start(asked: &Asked, ask: Ask) -> Option<Result<Self, RunError>> {
        let pool = asked.revision.pool.clone()?;
        let (start, span) = (Instant::now(), ask.span(asked));
        let cold = || {
            if asked.live {
                asked.shared.observer.cold(asked.revision.hook);
            }
        };
        Some(match pool.take(cold).await {
            Ok(instance) => Ok(Self::new(asked, span, pool, instance, start)),
            Err(fault) => {
                spans::policy_done(&span, fault.kind(), 0, start.elapsed());
                Err(fault)
            }
        })
    }

    /// What came out may be remembered: it was decided, by nothing but what was asked.
    pub(super) fn is_repeatable(&self) -> bool {
        !self.instance.store.data().varied
    }

    /// Goes on with the instance of an earlier call of the same request.
    pub(super) fn resume(asked: &Asked, ask: Ask, instance: Instance) -> Option<Self> {
        let pool = asked.revision.pool.clone()?;
        let (start, span) = (Instant::now(), ask.span(asked));
        Some(Self::new(asked, span, pool, instance, start))
    }

    fn new(
        asked: &Asked,
        span: Span,
        pool: Arc<Pool>,
        mut instance: Instance,
        start: Instant,
    ) -> Self {
        instance.allow(pool.template.limits.call);
        Self {
            instance,
            span,
            asked: asked.clone(),
            pool,
            start,
        }
    }

    /// Writes the outcome down and gives the instance to the janitor.
    pub(super) fn end<R>(self, result: &Result<R, RunError>) {
        self.note(result);
        self.pool.spent(self.instance);
    }

    /// Writes the outcome down and keeps the instance for the request's next call.
    pub(super) fn keep<R>(self, result: &Result<R, RunError>) -> Instance {
        self.note(result);
        self.instance
    }

    /// Keeps the instance for calls that somebody else writes down, and tells the time so far.
    pub(super) fn go_on(self) -> (Instance, Duration) {
        (self.instance, self.start.elapsed())
    }

    fn note<R>(&self, result: &Result<R, RunError>) {
        let outcome = outcome(result);
        let spent = Spent {
            elapsed: self.start.elapsed(),
            memory_peak: self.instance.memory_peak(),
            fuel: self.instance.fuel(),
        };
        note(&self.asked, &self.span, outcome, spent);
    }
}

/// One word for a call's end.
pub(super) fn outcome<R>(result: &Result<R, RunError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(fault) => fault.kind(),
    }
}

/// Writes down that a decision was remembered in place of a call.
pub(super) fn note_remembered(asked: &Asked, ask: Ask) {
    spans::policy_remembered(&ask.span(asked));
    asked.shared.observer.remembered(asked.revision.hook);
}

/// What a call took.
pub(super) struct Spent {
    pub elapsed: Duration,
    pub memory_peak: usize,
    pub fuel: u64,
}

pub(super) fn is_fault<R>(asked: &Option<Result<R, RunError>>) -> bool {
    matches!(asked, Some(Err(_)))
}

/// Writes down what a call came to.
pub(super) fn note(asked: &Asked, span: &Span, outcome: &'static str, spent: Spent) {
    let Spent {
        elapsed,
        memory_peak,
        fuel,
    } = spent;
    spans::policy_done(span, outcome, memory_peak, elapsed);
    asked.shared.observer.called(&CallFacts {
        hook: asked.revision.hook,
        policy: &asked.revision.name,
        outcome,
        elapsed,
        memory_peak,
        fuel,
        live: asked.live,
    });
}

impl Ask {
    fn span(self, asked: &Asked) -> Span {
        let revision = &asked.revision;
        let call = PolicyCall {
            ask: self.as_str(),
            hook: revision.hook.as_str(),
            name: &revision.name,
            version: &revision.version,
            sha256: &revision.sha256,
            generation: asked.generation,
        };
        spans::policy(&asked.span, &call)
    }

    pub(super) fn hook(self) -> Hook {
        match self {
            Ask::Guard => Hook::Guard,
            Ask::CacheDecide | Ask::CacheAdmit => Hook::Cache,
            Ask::Layout | Ask::Build => Hook::Prompt,
            Ask::Trim => Hook::Trim,
            Ask::Filter => Hook::Filter,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Ask::Guard => "guard",
            Ask::CacheDecide => "cache.decide",
            Ask::Layout => "layout",
            Ask::Trim => "trim",
            Ask::Build => "build",
            Ask::CacheAdmit => "cache.admit",
            Ask::Filter => "filter",
        }
    }
}

/// A policy's fault, wherever it happened: what happens to the request is the operator's choice.
/// Where there is one, the fault is told as well.
pub(super) fn faulted(asked: &Asked, fault: RunError) -> Result<(), Denied> {
    asked.faulted.store(true, Ordering::Relaxed);
    if asked.live {
        tell(asked, &fault);
    }
    let revision = &asked.revision;
    match revision.fail {
        // What lets text pass unseen when many ask at once could be switched off by asking.
        _ if fault.is_want() && revision.hook.watches_text() => Err(Denied::Busy {
            hook: revision.hook,
            error: fault,
        }),
        Fail::Open => Ok(()),
        Fail::Closed => Err(Denied::Refused {
            hook: revision.hook,
            policy: revision.name.clone(),
            error: fault,
        }),
    }
}

/// Says it on the request's span, counts it, logs it; perhaps it is the breaker's last straw.
fn tell(asked: &Asked, fault: &RunError) {
    let (revision, shared) = (&asked.revision, &asked.shared);
    let (hook, policy, kind) = (revision.hook, revision.name.as_str(), fault.kind());
    spans::policy_fault(&asked.span, hook.as_str(), kind, revision.fail.as_str());
    shared.observer.faulted(&FaultFacts { hook, policy, kind });
    // A policy that fails fails for everybody: a line each would drown the log.
    if let Some(unsaid) = revision.told.fault(Instant::now(), kind) {
        let more = match unsaid {
            0 => String::new(),
            count => format!(" ({count} more of this kind since the last line)"),
        };
        tracing::warn!(target: "stent::policy", %hook, policy, kind,
            "the {hook} policy {policy} failed: {fault}{more}");
    }
    if fault.is_want() {
        // Another revision would want for instances as much.
        return;
    }
    let breaker = &shared.settings.breaker;
    if revision
        .breaker
        .fault(Instant::now(), breaker.faults, breaker.window)
    {
        shared.trip(hook, revision.since);
    }
}
