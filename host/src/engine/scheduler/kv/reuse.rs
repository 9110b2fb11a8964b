//! What of a prompt is in the cache already: the session's own tokens, or a head for everybody.

use std::sync::Arc;

use super::{Kv, MAX_HEADS, MIN_HEAD, Seq, Want, index};
use crate::engine::scheduler::plan::{Op, SeqId, Time};
use crate::types::{SessionKey, Token};

/// Where a prompt's first tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The session's own sequence.
    Resident(SeqId),
    /// The session's parked sequence.
    Parked,
    Head(SeqId),
    Nothing,
}

impl Kv {
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

    pub(super) fn source(&self, want: &Want<'_>) -> (Source, usize) {
        let most = want.reusable.min(want.tokens.len());
        let mut best = (Source::Nothing, 0);
        let mut offer = |source, len: usize| {
            if len.min(most) > best.1 {
                best = (source, len.min(most));
            }
        };
        // The first of equals wins: what lies in the cache as the session's own, then the head, then
        // what would have to be copied back.
        let resident = want.key.and_then(|key| self.resident(key));
        if let Some(seq) = resident {
            offer(Source::Resident(seq), common(self.tokens(seq), want.tokens));
        }
        if let Some((seq, len)) = self.head(want.tokens, want.head) {
            offer(Source::Head(seq), len);
        }
        if resident.is_none()
            && let Some(parked) = want.key.and_then(|key| self.parked.get(key))
        {
            offer(Source::Parked, common(&parked.tokens, want.tokens));
        }
        best
    }

    /// The longest head that `tokens` starts with and that ends within `most`.
    fn head(&self, tokens: &[Token], most: usize) -> Option<(SeqId, usize)> {
        let heads = self
            .seqs
            .iter()
            .enumerate()
            .filter_map(|(at, seq)| match seq {
                Seq::Head { tokens: head, .. } => Some((at as SeqId, head)),
                _ => None,
            });
        heads
            .filter(|(_, head)| head.len() <= most && tokens.starts_with(head))
            .map(|(seq, head)| (seq, head.len()))
            .max_by_key(|&(_, len)| len)
    }

    /// The head under a resident sequence that is cut to `cached` tokens.
    pub(super) fn lease(&self, seq: SeqId, cached: usize) -> (Option<SeqId>, usize) {
        self.body(seq)
            .map_or((None, 0), |body| (body.head, body.shared.min(cached)))
    }

    /// Stores the first `len` tokens of a busy sequence as a head for everybody; if somebody has done so
    /// while this one was computed, that one is used.
    pub fn make_head(&mut self, seq: SeqId, len: usize, now: Time) {
        let Some(tokens) = self.tokens(seq).get(..len) else {
            return;
        };
        if len < MIN_HEAD || self.body(seq).is_none_or(|body| body.head.is_some()) {
            return;
        }
        let tokens: Arc<[Token]> = tokens.into();
        if let Some((head, found)) = self.head(&tokens, len)
            && found == len
        {
            self.adopt(seq, head, len, now);
            return;
        }
        if self.head_count() >= MAX_HEADS && !self.drop_unused_head() {
            return;
        }
        let Some(head) = self.seqs.iter().position(|seq| matches!(seq, Seq::Free)) else {
            return;
        };
        let head_id = head as SeqId;
        self.ops.push(Op::Share {
            from: seq,
            to: head_id,
            len: len as u32,
        });
        self.seqs[head] = Seq::Head {
            tokens,
            sharers: 0,
            used: now,
        };
        self.lean(seq, head_id, len, now);
    }

    /// A busy sequence that has cells of its own for what a head of at most `most` tokens holds, because it
    /// was parked or is older than the head, gives them up for the head's.
    pub(super) fn join_head(&mut self, seq: SeqId, most: usize, now: Time) {
        if self.body(seq).is_some_and(|body| body.head.is_none())
            && let Some((head, len)) = self.head(self.tokens(seq), most)
        {
            self.adopt(seq, head, len, now);
        }
    }

    fn adopt(&mut self, seq: SeqId, head: SeqId, len: usize, now: Time) {
        self.ops.push(Op::Adopt {
            from: head,
            to: seq,
            len: len as u32,
        });
        self.lean(seq, head, len, now);
    }

    /// Books the first `len` tokens of a busy sequence to the head.
    fn lean(&mut self, seq: SeqId, head: SeqId, len: usize, now: Time) {
        if let Seq::Busy { body, reserved } = &mut self.seqs[index(seq)] {
            body.head = Some(head);
            body.shared = len;
            *reserved -= len;
        }
        self.share_more(Source::Head(head), now);
    }

    pub(super) fn share_more(&mut self, source: Source, now: Time) {
        // A resident sequence keeps the share that it has.
        if let Source::Head(head) = source
            && let Seq::Head { sharers, used, .. } = &mut self.seqs[index(head)]
        {
            *sharers += 1;
            *used = now;
        }
    }

    pub(super) fn leave_head(&mut self, head: Option<SeqId>) {
        if let Some(head) = head
            && let Seq::Head { sharers, .. } = &mut self.seqs[index(head)]
        {
            *sharers -= 1;
        }
    }

    fn drop_unused_head(&mut self) -> bool {
        let unused = self
            .seqs
            .iter()
            .position(|seq| matches!(seq, Seq::Head { sharers: 0, .. }));
        if let Some(at) = unused {
            self.seqs[at] = Seq::Free;
            self.ops.push(Op::Remove {
                seq: at as SeqId,
                from: 0,
            });
        }
        unused.is_some()
    }

    fn head_count(&self) -> usize {
        self.seqs
            .iter()
            .filter(|seq| matches!(seq, Seq::Head { .. }))
            .count()
    }
}

/// Tokens that both start with.
fn common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
