//! What can go wrong when a guest is asked, each kind its own.

use std::time::Duration;

use thiserror::Error;
use wasmtime::Trap;

use super::settings::Limits;
use super::types::Hook;

/// A guest's fault. Never its decision.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RunError {
    #[error("it ran past policies.limits.call = {limit:?}")]
    Deadline { limit: Duration },
    #[error("it asked for {asked} bytes of memory, past policies.limits.memory = {limit}")]
    Memory { asked: usize, limit: usize },
    #[error("its calls are nested too deeply for its stack of {limit} bytes")]
    Stack { limit: usize },
    #[error("it trapped: {0}")]
    Trap(String),
    /// It answered something that the host cannot act on.
    #[error("it answered what cannot be done: {0}")]
    BadResult(String),
    /// It gave an error itself.
    #[error("it reported: {0}")]
    Refused(String),
    /// Counting ends at the limit: how much more it would have been is not known.
    #[error("it hands over more at once than policies.limits.result_bytes = {limit} bytes allows")]
    Results { limit: u64 },
    #[error("all instances are in use, policies.limits.instances = {limit} allows no more")]
    Exhausted { limit: u32 },
}

/// Why a stage gives no result.
#[derive(Clone, Debug, Error)]
pub enum Denied {
    /// The policy failed and its hook is configured `fail = "closed"`.
    #[error("the {hook} policy {policy:?} failed and policies.{hook}.fail is \"closed\": {error}")]
    Refused {
        hook: Hook,
        policy: String,
        #[source]
        error: RunError,
    },
    /// Guard or filter could not be asked for want of an instance: nobody's text passes unseen, and
    /// the policy is not to blame.
    #[error("the {hook} policy cannot be asked just now: {error}")]
    Busy {
        hook: Hook,
        #[source]
        error: RunError,
    },
    /// The newest message, the pinned ones and the layout alone exceed the context.
    #[error("the message needs {needed} tokens with what belongs to it, and {available} fit")]
    TooLong { needed: u32, available: u32 },
}

/// Raised by the host itself inside a call, to be recognised in [`RunError::of`].
#[derive(Clone, Debug, Error)]
#[error(transparent)]
pub(super) struct Raised(pub RunError);

impl RunError {
    /// The one place where wasmtime's errors become kinds.
    pub(super) fn of(error: &wasmtime::Error, limits: &Limits) -> Self {
        if let Some(Raised(fault)) = error.downcast_ref::<Raised>() {
            return fault.clone();
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::StackOverflow) => Self::Stack {
                limit: super::runtime::WASM_STACK,
            },
            Some(trap) => Self::Trap(trap.to_string()),
            None => match error.root_cause().to_string() {
                // What the runtime counts as fuel of a call has a key of its own here.
                cause if cause.contains("fuel allocated for hostcalls") => Self::Results {
                    limit: limits.result_bytes,
                },
                cause => Self::BadResult(cause),
            },
        }
    }

    /// Whether it never came to a call, because all instances are in use.
    pub(super) fn is_want(&self) -> bool {
        matches!(self, Self::Exhausted { .. })
    }

    /// One word for metrics and spans.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Deadline { .. } => "deadline",
            Self::Memory { .. } => "memory",
            Self::Stack { .. } => "stack",
            Self::Trap(_) => "trap",
            Self::BadResult(_) | Self::Results { .. } => "bad-result",
            Self::Refused(_) => "refused",
            Self::Exhausted { .. } => "exhausted",
        }
    }
}
