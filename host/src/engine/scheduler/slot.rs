//! A slot: one answer at a time, from its prompt to its last token.

use std::sync::Arc;

use super::lookup::Lookup;
use super::plan::{JobId, SeqId, Time};
use crate::types::{SessionKey, TenantId, Token};

/// What a slot needs to know of its job.
#[derive(Debug)]
pub struct Work {
    pub id: JobId,
    pub tenant: TenantId,
    pub session: Option<SessionKey>,
    pub seq: SeqId,
    pub prompt: Arc<[Token]>,
    pub head: usize,
    pub max_tokens: usize,
    pub submitted: Time,
}

/// What the slot does.
#[derive(Debug)]
pub enum Slot {
    Idle,
    /// The cache holds the first tokens of the prompt.
    Prefill(Work),
    /// The cache holds everything but `next`, the last token drawn.
    Decode {
        work: Work,
        next: Token,
        drawn: usize,
        lookup: Lookup,
    },
}

/// What a slot does, for the status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    Idle,
    Prefill,
    Decode,
}

impl Slot {
    pub fn doing(&self) -> Doing {
        match self {
            Self::Idle => Doing::Idle,
            Self::Prefill(_) => Doing::Prefill,
            Self::Decode { .. } => Doing::Decode,
        }
    }

    pub fn work(&self) -> Option<&Work> {
        match self {
            Slot::Idle => None,
            Slot::Prefill(work) | Slot::Decode { work, .. } => Some(work),
        }
    }

    pub fn work_mut(&mut self) -> Option<&mut Work> {
        match self {
            Slot::Idle => None,
            Slot::Prefill(work) | Slot::Decode { work, .. } => Some(work),
        }
    }
}
