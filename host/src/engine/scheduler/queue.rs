//! Who comes next: jobs that wait for a slot, and prompts that wait for a step.

use super::Scheduler;
use super::fair::Who;
use super::kv::Want;
use super::plan::{JobId, Request, Started, Time};
use super::slot::{Slot, Work};

#[derive(Debug)]
pub(super) struct Waiting {
    pub request: Request,
    pub submitted: Time,
}

impl Scheduler {
    /// The waiting jobs, next one first.
    pub fn order(&self, now: Time) -> Vec<JobId> {
        let mut order: Vec<_> = self
            .queue
            .iter()
            .map(|waiting| (self.waiting_score(waiting, now), waiting.request.id))
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        order.into_iter().map(|(_, id)| id).collect()
    }

    /// Moves jobs from the queue to free slots, in order: the first one that finds no room stops
    /// the others, or a large prompt would wait for ever behind small ones.
    pub(super) fn start_waiting(&mut self, now: Time) -> Vec<Started> {
        let mut started = Vec::new();
        while let Some(slot) = self
            .slots
            .iter()
            .position(|slot| matches!(slot, Slot::Idle))
        {
            let next = self.queue.iter().enumerate().min_by(|(_, a), (_, b)| {
                self.waiting_score(a, now)
                    .total_cmp(&self.waiting_score(b, now))
            });
            let Some((at, _)) = next else { break };
            match self.start(at, slot, now) {
                Some(start) => started.push(start),
                None => break,
            }
        }
        started
    }

    fn start(&mut self, at: usize, slot: usize, now: Time) -> Option<Started> {
        let request = self.queue[at].request.clone();
        // What was computed ahead for the session is its own; a request never waits for the rest.
        if let Some(session) = &request.session {
            self.drop_ahead(session, now);
        }
        let want = Want {
            key: request.session.as_ref(),
            tokens: &request.prompt,
            head: request.head,
            reusable: request.prompt.len() - 1,
            total: request.prompt.len() + request.max_tokens,
        };
        let acquired = self.kv.acquire(want, now).or_else(|| {
            // The one sequence that is computed ahead may hold the cells.
            self.pause_ahead(now);
            self.kv.acquire(want, now)
        })?;
        let waiting = self.queue.remove(at);
        let uncached = request.prompt.len() - acquired.cached;
        let who = Who {
            tenant: &request.tenant,
            session: request.session.as_ref(),
        };
        self.ledger.charge(who, uncached as u32, now);
        self.slots[slot] = Slot::Prefill(Work {
            id: request.id,
            tenant: request.tenant,
            session: request.session,
            seq: acquired.seq,
            prompt: request.prompt,
            head: request.head,
            max_tokens: request.max_tokens,
            submitted: waiting.submitted,
        });
        Some(Started {
            id: request.id,
            slot,
            seq: acquired.seq,
            cached: acquired.cached,
        })
    }

    fn waiting_score(&self, waiting: &Waiting, now: Time) -> f64 {
        let request = &waiting.request;
        let cached = self
            .kv
            .cached(request.session.as_ref(), &request.prompt, request.head);
        let left = request.prompt.len() - cached;
        let who = Who {
            tenant: &request.tenant,
            session: request.session.as_ref(),
        };
        self.score(who, left, waiting.submitted, now)
    }

    pub(super) fn work_score(&self, work: &Work, now: Time) -> f64 {
        let left = work.prompt.len() - self.kv.tokens(work.seq).len();
        let who = Who {
            tenant: &work.tenant,
            session: work.session.as_ref(),
        };
        self.score(who, left, work.submitted, now)
    }

    fn score(&self, who: Who<'_>, left: usize, submitted: Time, now: Time) -> f64 {
        let waited = now.saturating_sub(submitted);
        self.ledger
            .score(who, left, waited, self.cost.rows_per_second(), now)
    }
}
