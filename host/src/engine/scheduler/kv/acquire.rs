//! Hands out sequences: what a prompt's first tokens come from, and the room for the rest.

use super::reuse::Source;
use super::{Body, Kv, Parked, Seq, index};
use crate::engine::scheduler::plan::{Op, SeqId, Time};
use crate::types::{SessionKey, Token};

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
    /// Hands out a sequence that starts with as much of `want.tokens` as is there, with room for
    /// `want.total` tokens reserved. `None`: there is no room now; asked again, there is more.
    pub fn acquire(&mut self, want: Want<'_>, now: Time) -> Option<Acquired> {
        let (source, cached) = self.source(&want);
        let (head, shared) = match source {
            Source::Resident(seq) => self.lease(seq, cached),
            Source::Head(head) => (Some(head), cached),
            Source::Parked | Source::Nothing => (None, 0),
        };
        let parked = want
            .key
            .and_then(|key| self.parked.get(key))
            .map_or(0, |p| p.tokens.len());
        // A restore puts back the whole sequence before its tail is cut.
        let whole = if source == Source::Parked { parked } else { 0 };
        let need = (want.total - shared).max(whole);
        if self.floor(head) + need > self.pool.cells as usize {
            return self.acquire_anew(want, source, now);
        }
        let mine = want.key.and_then(|key| self.resident(key));
        if !self.room_for(need, mine, head) {
            return None;
        }
        if source == Source::Parked && want.key.is_none_or(|key| !self.parked.contains_key(key)) {
            // What was parked to make room took its place in RAM.
            return self.acquire(want, now);
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
        let body = Body {
            tokens,
            head,
            shared,
        };
        self.seqs[index(seq)] = Seq::Busy {
            body,
            reserved: need,
        };
        self.make_room();
        match source {
            Source::Nothing => {}
            Source::Head(from) => self.ops.push(Op::Share {
                from,
                to: seq,
                len: cached as u32,
            }),
            Source::Resident(_) => self.trim(seq, old, cached),
            Source::Parked => self.restore(seq, restored, cached),
        }
        if let Seq::Busy { reserved, .. } = &mut self.seqs[index(seq)] {
            *reserved = want.total - shared;
        }
        self.join_head(seq, want.head, now);
        Some(Acquired { seq, cached })
    }

    /// With what the session has there is no room. Where nobody is busy nobody will make any: then what
    /// it has is in its own way (the whole head under a few common tokens), and goes.
    fn acquire_anew(&mut self, want: Want<'_>, source: Source, now: Time) -> Option<Acquired> {
        let busy = self.seqs.iter().any(|seq| matches!(seq, Seq::Busy { .. }));
        if busy || !matches!(source, Source::Resident(_) | Source::Parked) {
            return None;
        }
        self.forget(want.key?);
        self.acquire(want, now)
    }

    /// Cuts the tail that the new prompt does not share.
    fn trim(&mut self, seq: SeqId, old: Seq, cached: usize) {
        let Seq::Idle { body, .. } = old else { return };
        if cached < body.tokens.len() {
            self.ops.push(Op::Remove {
                seq,
                from: cached as u32,
            });
        }
    }

    fn restore(&mut self, seq: SeqId, parked: Option<Parked>, cached: usize) {
        let Some(parked) = parked else { return };
        let len = parked.tokens.len();
        self.ops.push(Op::Restore {
            seq,
            ticket: parked.ticket,
            len: len as u32,
        });
        if cached < len {
            self.ops.push(Op::Remove {
                seq,
                from: cached as u32,
            });
        }
    }
}
