//! The words in which the scheduler and the engine thread talk.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::kv::MAX_HEADS;
use crate::types::{SessionKey, TenantId, Token};

/// Time since the engine started.
pub type Time = Duration;
/// A sequence of the KV cache, as llama.cpp numbers it.
pub type SeqId = i32;
/// A parked sequence.
pub type Ticket = u64;
/// A submitted job.
pub type JobId = u64;

/// What the scheduler may use.
#[derive(Clone, Debug)]
pub struct Limits {
    pub slots: usize,
    /// Tokens of one slot: prompt and answer.
    pub context: usize,
    pub cells: u32,
    /// Sessions whose KV may stay in the cache while idle.
    pub idle_sessions: usize,
    pub park_bytes: u64,
    pub token_bytes: u64,
    /// Rows of one step, and prompt tokens of one step while nobody else is served.
    pub max_rows: usize,
    pub max_chunk: usize,
    /// Rows that the kernels compute together; 1 if it makes no difference.
    pub group: usize,
    /// Longest step while answers stream; `None`: four times a step of one group, and room for the
    /// rows that the matrix kernels compute together in any case.
    pub budget: Option<Duration>,
    pub speculation: bool,
}

impl Limits {
    /// Sequences that the cache must tell apart; the last is the one for padding rows.
    pub fn sequences(&self) -> usize {
        // One more than slots: the session that is prepared ahead.
        self.slots + 1 + self.idle_sessions + MAX_HEADS + 1
    }
}

/// A job as the scheduler sees it.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: JobId,
    /// Whose usage counts, with or without a session.
    pub tenant: TenantId,
    pub session: Option<SessionKey>,
    pub prompt: Arc<[Token]>,
    /// Leading tokens whose KV may be shared with everybody.
    pub head: usize,
    pub max_tokens: usize,
}

/// Work on the cache, done in order before the step's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Drop the sequence's tokens from position `from` on.
    Remove { seq: SeqId, from: u32 },
    /// The first `len` tokens of `from` are also those of `to`, in the same cells.
    Share { from: SeqId, to: SeqId, len: u32 },
    /// The first `len` tokens of `from` are also those of `to`, which has had them in cells of its own.
    Adopt { from: SeqId, to: SeqId, len: u32 },
    /// Copy the sequence to RAM and drop it.
    Park { seq: SeqId, ticket: Ticket },
    /// Put a parked sequence of `len` tokens back, and forget the copy.
    Restore {
        seq: SeqId,
        ticket: Ticket,
        len: u32,
    },
    /// Forget a copy.
    Discard { ticket: Ticket },
}

/// One token to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub seq: SeqId,
    pub pos: u32,
    pub token: Token,
    /// Whether a token is drawn after it.
    pub logits: bool,
}

/// A slot's rows with logits: the first follows its text so far, the others are guesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub slot: usize,
    pub rows: Range<usize>,
}

/// A job that left the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    pub id: JobId,
    pub slot: usize,
    pub seq: SeqId,
    pub cached: usize,
}

/// One step.
#[derive(Debug, Default)]
pub struct Plan {
    pub started: Vec<Started>,
    pub ops: Vec<Op>,
    pub rows: Vec<Row>,
    pub samples: Vec<Sample>,
    /// Who computes which rows of the prompt.
    pub(super) prefills: Vec<(Feeder, Range<usize>)>,
}

impl Plan {
    /// The slots that wait for this step: those that draw, and those whose prompts it reads.
    pub fn slots(&self) -> Vec<usize> {
        let fed = self.prefills.iter().filter_map(|(feeder, _)| match feeder {
            Feeder::Slot(slot) => Some(*slot),
            Feeder::Ahead => None,
        });
        let mut slots: Vec<_> = self.samples.iter().map(|s| s.slot).chain(fed).collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Feeder {
    Slot(usize),
    Ahead,
}

/// What was drawn for a slot: one token, and one more for every guess that was right.
#[derive(Clone, Debug)]
pub struct Drawn {
    pub tokens: Vec<Token>,
    /// The answer ends here.
    pub end: bool,
}

/// Counts of what was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub prefilled: u64,
    pub prepared: u64,
    pub drafted: u64,
    pub draft_hits: u64,
}
