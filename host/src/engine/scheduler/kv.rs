//! Who owns which cells of the KV cache: books only, llama.cpp is told by [`Op`]s.
//!
//! The cache is one pool of cells. A *sequence* is a list of tokens whose KV is there; it belongs to
//! a slot (busy), to a session between two turns (idle) or to everybody (a shared head, the
//! operator's system text). A session's KV is found by its key alone, never by likeness, and what
//! may be reused of it is decided by comparing token ids.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Op, SeqId, Ticket, Time};
use crate::types::{SessionKey, Token};

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
    Head { tokens: Arc<[Token]>, sharers: usize, used: Time },
    Idle { key: SessionKey, body: Body, used: Time },
    /// `reserved`: cells that the slot may come to own.
    Busy { body: Body, reserved: usize },
}

#[derive(Debug)]
struct Parked {
    ticket: Ticket,
    tokens: Vec<Token>,
    used: Time,
}

/// Where a prompt's first tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The session's own sequence.
    Resident(SeqId),
    /// The session's parked sequence.
    Parked,
    Head(SeqId),
    Nothing,
}

/// The books.
#[derive(Debug)]
pub struct Kv {
    pool: Pool,
    seqs: Vec<Seq>,
    parked: HashMap<SessionKey, Parked>,
    tickets: Ticket,
    ops: Vec<Op>,
}

/// A sequence that was handed out, and how many tokens it holds already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    pub seq: SeqId,
    pub cached: usize,
}

/// What is asked for when a sequence is acquired.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    pub key: Option<&'a SessionKey>,
    pub tokens: &'a [Token],
    /// Leading tokens that may come from a shared head.
    pub head: usize,
    /// At most so many tokens may be taken over: a prompt's last one must be computed, because its
    /// logits are wanted.
    pub reusable: usize,
    /// Tokens that the sequence may grow to.
    pub total: usize,
}

impl Kv {
    pub fn new(pool: Pool) -> Self {
        let seqs = (0..pool.sequences).map(|_| Seq::Free).collect();
        Self { pool, seqs, parked: HashMap::new(), tickets: 0, ops: Vec::new() }
    }

    /// What llama.cpp must do before the next step, in this order.
    pub fn take_ops(&mut self) -> Vec<Op> {
        std::mem::take(&mut self.ops)
    }

    pub fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// Cells that are taken or promised.
    pub fn used(&self) -> usize {
        self.seqs.iter().map(Self::cost).sum()
    }

    pub fn parked(&self) -> (usize, u64) {
        (self.parked.len(), self.parked.values().map(|p| self.bytes(p.tokens.len())).sum())
    }

    pub fn tokens(&self, seq: SeqId) -> &[Token] {
        let Some(found) = self.seqs.get(index(seq)) else { return &[] };
        match found {
            Seq::Free => &[],
            Seq::Head { tokens, .. } => tokens,
            Seq::Idle { body, .. } | Seq::Busy { body, .. } => &body.tokens,
        }
    }

    /// Tokens of `tokens` that need no computing for this session, as things stand.
    pub fn cached(&self, key: Option<&SessionKey>, tokens: &[Token], head: usize) -> usize {
        let resident = key.and_then(|key| self.resident(key));
        let own = match resident {
            Some(seq) => common(self.tokens(seq), tokens),
            None => key
                .and_then(|key| self.parked.get(key))
                .map_or(0, |parked| common(&parked.tokens, tokens)),
        };
        own.max(self.head(tokens, head).map_or(0, |(_, len)| len))
    }

    /// Hands out a sequence that starts with as much of `want.tokens` as is there, with room for
    /// `want.total` tokens reserved. `None` changes nothing: there is no room now.
    pub fn acquire(&mut self, want: Want<'_>, now: Time) -> Option<Acquired> {
        let (source, cached) = self.source(&want);
        let (head, shared) = match source {
            Source::Resident(seq) => self.lease(seq, cached),
            Source::Head(head) => (Some(head), cached),
            Source::Parked | Source::Nothing => (None, 0),
        };
        let parked = want.key.and_then(|key| self.parked.get(key)).map_or(0, |p| p.tokens.len());
        // A restore puts back the whole sequence before its tail is cut.
        let whole = if source == Source::Parked { parked } else { 0 };
        let need = (want.total - shared).max(whole);
        if self.floor(head) + need > self.pool.cells as usize {
            return None;
        }
        // From here on nothing fails. The books come first, then room, then the KV itself.
        let restored = match source {
            Source::Parked => want.key.and_then(|key| self.parked.remove(key)),
            _ => None,
        };
        let seq = match source {
            Source::Resident(seq) => seq,
            _ => {
                if let Some(old) = want.key.and_then(|key| self.resident(key)) {
                    self.free(old);
                }
                self.free_sequence()
            }
        };
        self.share_more(source, now);
        let old = std::mem::replace(&mut self.seqs[index(seq)], Seq::Free);
        let tokens = want.tokens[..cached].to_vec();
        let body = Body { tokens, head, shared };
        self.seqs[index(seq)] = Seq::Busy { body, reserved: need };
        self.make_room();
        match source {
            Source::Nothing => {}
            Source::Head(from) => self.ops.push(Op::Share { from, to: seq, len: cached as u32 }),
            Source::Resident(_) => self.trim(seq, old, cached),
            Source::Parked => self.restore(seq, restored, cached),
        }
        if let Seq::Busy { reserved, .. } = &mut self.seqs[index(seq)] {
            *reserved = want.total - shared;
        }
        Some(Acquired { seq, cached })
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
                self.seqs[index(seq)] = Seq::Idle { key, body, used: now };
                while self.idle_count() > self.pool.idle && self.evict(false) {}
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
            self.ops.push(Op::Remove { seq: at as SeqId, from: 0 });
        }
    }

    /// Stores the first `len` tokens of a busy sequence as a head for everybody, if nobody has
    /// done so yet.
    pub fn make_head(&mut self, seq: SeqId, len: usize, now: Time) {
        let Some(tokens) = self.tokens(seq).get(..len) else { return };
        if len < MIN_HEAD || self.body(seq).is_none_or(|body| body.head.is_some()) {
            return;
        }
        let tokens: Arc<[Token]> = tokens.into();
        if self.head(&tokens, len).is_some_and(|(_, found)| found == len) {
            return;
        }
        if self.head_count() >= MAX_HEADS && !self.drop_unused_head() {
            return;
        }
        let Some(head) = self.seqs.iter().position(|seq| matches!(seq, Seq::Free)) else { return };
        let head_id = head as SeqId;
        self.ops.push(Op::Share { from: seq, to: head_id, len: len as u32 });
        self.seqs[head] = Seq::Head { tokens, sharers: 1, used: now };
        if let Seq::Busy { body, reserved } = &mut self.seqs[index(seq)] {
            body.head = Some(head_id);
            body.shared = len;
            *reserved -= len;
        }
    }

    fn source(&self, want: &Want<'_>) -> (Source, usize) {
        let most = want.reusable.min(want.tokens.len());
        let mut best = (Source::Nothing, 0);
        let mut offer = |source, len: usize| {
            if len.min(most) > best.1 {
                best = (source, len.min(most));
            }
        };
        // The session's own comes first: it wins a tie against the head.
        if let Some(seq) = want.key.and_then(|key| self.resident(key)) {
            offer(Source::Resident(seq), common(self.tokens(seq), want.tokens));
        } else if let Some(parked) = want.key.and_then(|key| self.parked.get(key)) {
            offer(Source::Parked, common(&parked.tokens, want.tokens));
        }
        if let Some((seq, len)) = self.head(want.tokens, want.head) {
            offer(Source::Head(seq), len);
        }
        best
    }

    /// The longest head that `tokens` starts with and that ends within `most`.
    fn head(&self, tokens: &[Token], most: usize) -> Option<(SeqId, usize)> {
        let heads = self.seqs.iter().enumerate().filter_map(|(at, seq)| match seq {
            Seq::Head { tokens: head, .. } => Some((at as SeqId, head)),
            _ => None,
        });
        heads
            .filter(|(_, head)| head.len() <= most && tokens.starts_with(head))
            .map(|(seq, head)| (seq, head.len()))
            .max_by_key(|&(_, len)| len)
    }

    /// Cuts the tail that the new prompt does not share.
    fn trim(&mut self, seq: SeqId, old: Seq, cached: usize) {
        let Seq::Idle { body, .. } = old else { return };
        if cached < body.tokens.len() {
            self.ops.push(Op::Remove { seq, from: cached as u32 });
        }
    }

    fn restore(&mut self, seq: SeqId, parked: Option<Parked>, cached: usize) {
        let Some(parked) = parked else { return };
        let len = parked.tokens.len();
        self.ops.push(Op::Restore { seq, ticket: parked.ticket, len: len as u32 });
        if cached < len {
            self.ops.push(Op::Remove { seq, from: cached as u32 });
        }
    }

    /// Cells that cannot be freed: what slots hold and the heads under them, and `head`.
    fn floor(&self, head: Option<SeqId>) -> usize {
        let under_slots = |at: usize| {
            self.seqs.iter().any(|seq| match seq {
                Seq::Busy { body, .. } => body.head == Some(at as SeqId),
                _ => false,
            })
        };
        let kept = self.seqs.iter().enumerate().filter(|&(at, seq)| match seq {
            Seq::Busy { .. } => true,
            Seq::Head { .. } => head == Some(at as SeqId) || under_slots(at),
            Seq::Free | Seq::Idle { .. } => false,
        });
        kept.map(|(_, seq)| Self::cost(seq)).sum()
    }

    /// Evicts, least recently used first, until the books are within the pool.
    fn make_room(&mut self) {
        while self.used() > self.pool.cells as usize && self.evict(true) {}
    }

    fn free_sequence(&mut self) -> SeqId {
        loop {
            if let Some(at) = self.seqs.iter().position(|seq| matches!(seq, Seq::Free)) {
                return at as SeqId;
            }
            // There are more sequences than slots and heads, so an idle one is among them.
            if !self.evict(true) {
                unreachable!("all {} sequences are busy", self.seqs.len());
            }
        }
    }

    /// Frees the least recently used idle sequence, which may be parked, or unused head.
    fn evict(&mut self, heads_too: bool) -> bool {
        let oldest = self.seqs.iter().enumerate().filter_map(|(at, seq)| match seq {
            Seq::Idle { used, .. } => Some((*used, at)),
            Seq::Head { sharers: 0, used, .. } if heads_too => Some((*used, at)),
            _ => None,
        });
        let Some((_, at)) = oldest.min() else { return false };
        match std::mem::replace(&mut self.seqs[at], Seq::Free) {
            Seq::Idle { key, body, used } => {
                self.leave_head(body.head);
                self.park(at as SeqId, key, body.tokens, used);
            }
            _ => self.ops.push(Op::Remove { seq: at as SeqId, from: 0 }),
        }
        true
    }

    fn park(&mut self, seq: SeqId, key: SessionKey, tokens: Vec<Token>, used: Time) {
        let bytes = self.bytes(tokens.len());
        if tokens.len() < MIN_PARK || bytes > self.pool.park_bytes {
            self.ops.push(Op::Remove { seq, from: 0 });
            return;
        }
        while self.parked().1 + bytes > self.pool.park_bytes {
            let oldest = self.parked.iter().min_by_key(|(_, p)| p.used).map(|(key, _)| key.clone());
            match oldest {
                Some(oldest) => self.discard_parked(&oldest),
                None => break,
            }
        }
        self.tickets += 1;
        let ticket = self.tickets;
        self.ops.push(Op::Park { seq, ticket });
        self.parked.insert(key, Parked { ticket, tokens, used });
    }

    fn discard_parked(&mut self, key: &SessionKey) {
        if let Some(parked) = self.parked.remove(key) {
            self.ops.push(Op::Discard { ticket: parked.ticket });
        }
    }

    fn free(&mut self, seq: SeqId) {
        if let Some(body) = self.body(seq) {
            let head = body.head;
            self.leave_head(head);
        }
        self.seqs[index(seq)] = Seq::Free;
        self.ops.push(Op::Remove { seq, from: 0 });
    }

    fn share_more(&mut self, source: Source, now: Time) {
        // A resident sequence keeps the share that it has.
        if let Source::Head(head) = source
            && let Seq::Head { sharers, used, .. } = &mut self.seqs[index(head)]
        {
            *sharers += 1;
            *used = now;
        }
    }

    fn leave_head(&mut self, head: Option<SeqId>) {
        if let Some(head) = head
            && let Seq::Head { sharers, .. } = &mut self.seqs[index(head)]
        {
            *sharers -= 1;
        }
    }

    /// The head under a resident sequence that is cut to `cached` tokens.
    fn lease(&self, seq: SeqId, cached: usize) -> (Option<SeqId>, usize) {
        self.body(seq).map_or((None, 0), |body| (body.head, body.shared.min(cached)))
    }

    fn resident(&self, key: &SessionKey) -> Option<SeqId> {
        let at = self.seqs.iter().position(|seq| matches!(seq, Seq::Idle { key: k, .. } if k == key));
        at.map(|at| at as SeqId)
    }

    fn body(&self, seq: SeqId) -> Option<&Body> {
        match &self.seqs[index(seq)] {
            Seq::Idle { body, .. } | Seq::Busy { body, .. } => Some(body),
            Seq::Free | Seq::Head { .. } => None,
        }
    }

    fn drop_unused_head(&mut self) -> bool {
        let unused = self.seqs.iter().position(|seq| matches!(seq, Seq::Head { sharers: 0, .. }));
        if let Some(at) = unused {
            self.seqs[at] = Seq::Free;
            self.ops.push(Op::Remove { seq: at as SeqId, from: 0 });
        }
        unused.is_some()
    }

    fn idle_count(&self) -> usize {
        self.seqs.iter().filter(|seq| matches!(seq, Seq::Idle { .. })).count()
    }

    fn head_count(&self) -> usize {
        self.seqs.iter().filter(|seq| matches!(seq, Seq::Head { .. })).count()
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

/// Tokens that both start with.
fn common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn index(seq: SeqId) -> usize {
    seq as usize
}
