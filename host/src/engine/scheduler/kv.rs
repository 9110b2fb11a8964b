//! Who owns which cells of the KV cache: books only, llama.cpp is told by [`Op`]s.
//!
//! The cache is one pool of cells. A *sequence* is a list of tokens whose KV is there; it belongs to
//! a slot (busy), to a session between two turns (idle) or to everybody (a shared head, the
//! operator's system text). A session's KV is found by its key alone, never by likeness, and what
//! may be reused of it is decided by comparing token ids.

mod acquire;
mod reuse;
mod room;
mod shelf;

use std::sync::Arc;

use super::plan::{Op, SeqId, Ticket, Time};
use crate::types::{SessionKey, Token};
pub use acquire::Want;
use shelf::Shelf;

/// Shared heads that are kept at once.
pub const MAX_HEADS: usize = 4;
/// Shorter heads are not worth a sequence of their own.
const MIN_HEAD: usize = 16;
/// Shorter sequences are computed again rather than parked.
const MIN_PARK: usize = 32;

/// The sizes that the books are kept against.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    pub cells: u32,
    /// Sequences there are: slots, idle sessions and heads.
    pub sequences: usize,
    /// Idle sessions that may stay in the cache.
    pub idle: usize,
    /// RAM for sequences that left the cache, and what one token of them takes.
    pub park_bytes: u64,
    pub token_bytes: u64,
}

/// The tokens of a sequence and whose cells they are in.
#[derive(Clone, Debug, Default)]
struct Body {
    tokens: Vec<Token>,
    /// The head that holds the first `shared` tokens.
    head: Option<SeqId>,
    shared: usize,
}

impl Body {
    fn own(&self) -> usize {
        self.tokens.len() - self.shared
    }
}

#[derive(Debug)]
enum Seq {
    Free,
    Head {
        tokens: Arc<[Token]>,
        sharers: usize,
        used: Time,
    },
    Idle {
        key: SessionKey,
        body: Body,
        used: Time,
    },
    /// `reserved`: cells that the slot may come to own.
    Busy {
        body: Body,
        reserved: usize,
    },
}

#[derive(Debug)]
struct Parked {
    ticket: Ticket,
    tokens: Vec<Token>,
    used: Time,
}

/// The books.
#[derive(Debug)]
pub struct Kv {
    pool: Pool,
    seqs: Vec<Seq>,
    parked: Shelf,
    tickets: Ticket,
    /// Sequences that may still be parked before the next step.
    parks: usize,
    ops: Vec<Op>,
}

impl Kv {
    pub fn new(pool: Pool) -> Self {
        let seqs = (0..pool.sequences).map(|_| Seq::Free).collect();
        Self {
            pool,
            seqs,
            parked: Shelf::default(),
            tickets: 0,
            parks: usize::MAX,
            ops: Vec::new(),
        }
    }

    /// What llama.cpp must do before the next step, in this order.
    pub fn take_ops(&mut self) -> Vec<Op> {
        std::mem::take(&mut self.ops)
    }

    /// How many sequences may be parked to make room before the next step.
    pub fn allow_parks(&mut self, parks: usize) {
        self.parks = parks;
    }

    pub fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// Cells that are taken or promised.
    pub fn used(&self) -> usize {
        self.seqs.iter().map(Self::cost).sum()
    }

    /// Sequences in RAM, and their bytes.
    pub fn parked(&self) -> (usize, u64) {
        (self.parked.len(), self.bytes(self.parked.tokens()))
    }

    pub fn tokens(&self, seq: SeqId) -> &[Token] {
        let Some(found) = self.seqs.get(index(seq)) else {
            return &[];
        };
        match found {
            Seq::Free => &[],
            Seq::Head { tokens, .. } => tokens,
            Seq::Idle { body, .. } | Seq::Busy { body, .. } => &body.tokens,
        }
    }

    /// Tokens whose KV was computed in the last step.
    pub fn extend(&mut self, seq: SeqId, tokens: &[Token]) {
        if let Seq::Busy { body, .. } | Seq::Idle { body, .. } = &mut self.seqs[index(seq)] {
            body.tokens.extend_from_slice(tokens);
        }
    }

    /// The sequence's KV is gone (a restore failed): it starts from nothing.
    pub fn lost(&mut self, seq: SeqId) {
        let Some(head) = self.body(seq).map(|body| (body.head, body.shared)) else {
            return;
        };
        self.leave_head(head.0);
        if let Seq::Busy { body, reserved } = &mut self.seqs[index(seq)] {
            *body = Body::default();
            *reserved += head.1;
        } else {
            self.seqs[index(seq)] = Seq::Free;
        }
        self.ops.push(Op::Remove { seq, from: 0 });
    }

    /// The slot is done. With a key the KV waits for the session's next turn.
    pub fn release(&mut self, seq: SeqId, key: Option<SessionKey>, now: Time) {
        let key = key.filter(|key| self.pool.idle > 0 && self.resident(key).is_none());
        let slot = &mut self.seqs[index(seq)];
        let Seq::Busy { body, .. } = std::mem::replace(slot, Seq::Free) else {
            return;
        };
        match key {
            Some(key) if !body.tokens.is_empty() => {
                self.discard_parked(&key);
                self.seqs[index(seq)] = Seq::Idle {
                    key,
                    body,
                    used: now,
                };
                while self.idle_count() > self.pool.idle && self.evict(false, &[]) {}
            }
            _ => {
                self.leave_head(body.head);
                self.ops.push(Op::Remove { seq, from: 0 });
            }
        }
    }

    /// Nothing of the session is kept.
    pub fn forget(&mut self, key: &SessionKey) {
        if let Some(seq) = self.resident(key) {
            self.free(seq);
        }
        self.discard_parked(key);
    }

    /// All sequences are empty from here on; parked copies stay.
    pub fn clear(&mut self) {
        for (at, seq) in self.seqs.iter_mut().enumerate() {
            *seq = Seq::Free;
            self.ops.push(Op::Remove {
                seq: at as SeqId,
                from: 0,
            });
        }
    }

    fn resident(&self, key: &SessionKey) -> Option<SeqId> {
        let at = self
            .seqs
            .iter()
            .position(|seq| matches!(seq, Seq::Idle { key: k, .. } if k == key));
        at.map(|at| at as SeqId)
    }

    fn body(&self, seq: SeqId) -> Option<&Body> {
        match &self.seqs[index(seq)] {
            Seq::Idle { body, .. } | Seq::Busy { body, .. } => Some(body),
            Seq::Free | Seq::Head { .. } => None,
        }
    }

    fn idle_count(&self) -> usize {
        self.seqs
            .iter()
            .filter(|seq| matches!(seq, Seq::Idle { .. }))
            .count()
    }

    fn bytes(&self, tokens: usize) -> u64 {
        tokens as u64 * self.pool.token_bytes
    }

    fn cost(seq: &Seq) -> usize {
        match seq {
            Seq::Free => 0,
            Seq::Head { tokens, .. } => tokens.len(),
            Seq::Idle { body, .. } => body.own(),
            Seq::Busy { body, reserved } => body.own().max(*reserved),
        }
    }
}

fn index(seq: SeqId) -> usize {
    seq as usize
}
