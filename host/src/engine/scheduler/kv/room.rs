//! Makes room: idle sequences leave the cache, least recently used first, and go to RAM while the
//! budget lasts.

use super::{Kv, MIN_PARK, Parked, Seq, index};
use crate::engine::scheduler::plan::{Op, SeqId, Time};
use crate::types::{SessionKey, Token};

impl Kv {
    /// Cells that cannot be freed: what slots hold and the heads under them, and `head`.
    pub(super) fn floor(&self, head: Option<SeqId>) -> usize {
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

    /// Evicts until a sequence of `need` cells fits, in the place of `mine` and on `head`, neither of
    /// which goes. False: no more may be parked before the next step.
    pub(super) fn room_for(
        &mut self,
        need: usize,
        mine: Option<SeqId>,
        head: Option<SeqId>,
    ) -> bool {
        loop {
            let own = mine.map_or(0, |seq| Self::cost(&self.seqs[index(seq)]));
            let free = mine.is_some() || self.seqs.iter().any(|seq| matches!(seq, Seq::Free));
            if free && self.used() - own + need <= self.pool.cells as usize {
                return true;
            }
            if self.parks == 0 {
                return false;
            }
            if !self.evict(true, &[mine, head]) {
                return true;
            }
        }
    }

    /// Evicts, least recently used first, until the books are within the pool.
    pub(super) fn make_room(&mut self) {
        while self.used() > self.pool.cells as usize && self.evict(true, &[]) {}
    }

    pub(super) fn free_sequence(&mut self) -> SeqId {
        loop {
            if let Some(at) = self.seqs.iter().position(|seq| matches!(seq, Seq::Free)) {
                return at as SeqId;
            }
            // There are more sequences than slots and heads, so an idle one is among them.
            if !self.evict(true, &[]) {
                unreachable!("all {} sequences are busy", self.seqs.len());
            }
        }
    }

    /// Frees the least recently used idle sequence, which may be parked, or unused head, but none of
    /// `kept`.
    pub(super) fn evict(&mut self, heads_too: bool, kept: &[Option<SeqId>]) -> bool {
        let oldest = self
            .seqs
            .iter()
            .enumerate()
            .filter(|&(at, _)| !kept.contains(&Some(at as SeqId)))
            .filter_map(|(at, seq)| match seq {
                Seq::Idle { used, .. } => Some((*used, at)),
                Seq::Head {
                    sharers: 0, used, ..
                } if heads_too => Some((*used, at)),
                _ => None,
            });
        let Some((_, at)) = oldest.min() else {
            return false;
        };
        match std::mem::replace(&mut self.seqs[at], Seq::Free) {
            Seq::Idle { key, body, used } => {
                self.leave_head(body.head);
                self.park(at as SeqId, key, body.tokens, used);
            }
            _ => self.ops.push(Op::Remove {
                seq: at as SeqId,
                from: 0,
            }),
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
            let Some(oldest) = self.parked.oldest().cloned() else {
                break;
            };
            self.discard_parked(&oldest);
        }
        self.tickets += 1;
        let ticket = self.tickets;
        self.parks = self.parks.saturating_sub(1);
        self.ops.push(Op::Park { seq, ticket });
        self.parked.insert(
            key,
            Parked {
                ticket,
                tokens,
                used,
            },
        );
    }

    pub(super) fn discard_parked(&mut self, key: &SessionKey) {
        if let Some(parked) = self.parked.remove(key) {
            self.ops.push(Op::Discard {
                ticket: parked.ticket,
            });
        }
    }

    /// Discards everything that is parked.
    pub fn shed(&mut self) {
        while let Some(oldest) = self.parked.oldest().cloned() {
            self.discard_parked(&oldest);
        }
    }

    pub(super) fn free(&mut self, seq: SeqId) {
        if let Some(body) = self.body(seq) {
            let head = body.head;
            self.leave_head(head);
        }
        self.seqs[index(seq)] = Seq::Free;
        self.ops.push(Op::Remove { seq, from: 0 });
    }
}
