//! The next turns of idle sessions, computed while no prompt of a request waits.

use std::sync::Arc;

use super::Scheduler;
use super::fill::feed;
use super::kv::Want;
use super::plan::{Feeder, Plan, SeqId, Time};
use super::slot::Slot;
use crate::types::{SessionKey, Token};

/// A session's next prompt, computed ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    pub session: SessionKey,
    pub tokens: Arc<[Token]>,
    /// Has a sequence once it was begun.
    pub seq: Option<SeqId>,
}

impl Scheduler {
    /// Remembers what the session's next prompt starts with.
    pub fn prepare(&mut self, session: SessionKey, tokens: Arc<[Token]>, now: Time) {
        self.drop_ahead(&session, now);
        if !tokens.is_empty() && tokens.len() < self.context() {
            // While requests wait nothing is computed ahead, and what waits longest is worth least.
            if self.ahead.len() >= self.limits.idle_sessions.max(1)
                && let Some(oldest) = self.ahead.pop_front()
                && let Some(seq) = oldest.seq
            {
                self.kv.release(seq, Some(oldest.session), now);
            }
            self.ahead.push_back(Ahead {
                session,
                tokens,
                seq: None,
            });
        }
    }

    /// Stops computing ahead; what is computed stays with its session.
    pub(super) fn pause_ahead(&mut self, now: Time) {
        for ahead in &mut self.ahead {
            if let Some(seq) = ahead.seq.take() {
                self.kv.release(seq, Some(ahead.session.clone()), now);
            }
        }
    }

    pub(super) fn drop_ahead(&mut self, session: &SessionKey, now: Time) {
        if let Some(at) = self
            .ahead
            .iter()
            .position(|ahead| ahead.session == *session)
            && let Some(ahead) = self.ahead.remove(at)
            && let Some(seq) = ahead.seq
        {
            self.kv.release(seq, Some(ahead.session), now);
        }
    }

    /// Computes an idle session's next prompt, if no prompt of a request waits.
    pub(super) fn ahead(&mut self, plan: &mut Plan, now: Time) {
        let waits =
            !self.queue.is_empty() || self.slots.iter().any(|s| matches!(s, Slot::Prefill(_)));
        if waits {
            return;
        }
        // A session that is being answered keeps its sequence until the answer is there.
        let answered = |slots: &[Slot], session: &SessionKey| {
            slots.iter().any(|slot| {
                slot.work()
                    .is_some_and(|w| w.session.as_ref() == Some(session))
            })
        };
        while let Some(at) = self
            .ahead
            .iter()
            .position(|ahead| !answered(&self.slots, &ahead.session))
        {
            let Some(mut ahead) = self.ahead.remove(at) else {
                return;
            };
            let seq = ahead.seq.or_else(|| {
                let total = ahead.tokens.len();
                let want = Want {
                    key: Some(&ahead.session),
                    tokens: &ahead.tokens,
                    head: total,
                    reusable: total,
                    total,
                };
                self.kv.acquire(want, now).map(|acquired| acquired.seq)
            });
            // No room: the hint is dropped.
            let Some(seq) = seq else { continue };
            ahead.seq = Some(seq);
            let done = self.kv.tokens(seq).len();
            if done >= ahead.tokens.len() {
                self.kv.release(seq, Some(ahead.session), now);
                continue;
            }
            let left = &ahead.tokens[done..];
            // Short pieces, as beside answers: nobody knows when the next request comes.
            let chunk = self.chunk(plan.rows.len(), left.len(), true);
            let begin = plan.rows.len();
            feed(plan, seq, done, &left[..chunk]);
            if chunk > 0 {
                plan.prefills.push((Feeder::Ahead, begin..plan.rows.len()));
            }
            self.ahead.push_front(ahead);
            return;
        }
    }
}
