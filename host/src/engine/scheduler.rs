//! What the next step computes: decisions only, no llama.cpp, no clock, no thread.
//!
//! Every step is one batch. First come the running answers, one row each (or a few more, when the
//! text can be guessed), then as many prompt tokens as fit the step's time budget. Prompts are
//! computed one at a time, shortest first with ageing, and a slot whose prompt waits holds its
//! place. When nobody waits, the next turn of an idle session is computed ahead.
//!
//! [`Scheduler::plan`] says what to do, [`Scheduler::complete`] takes in what came out; nothing is
//! believed to be in the cache before that.

mod plan;
mod slot;

mod cost;
mod fair;
mod kv;
mod lookup;

mod ahead;
mod fill;
mod outcome;
mod queue;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod sliding;

use std::collections::VecDeque;
use std::time::Duration;

use ahead::Ahead;
use cost::Cost;
use fair::Ledger;
use kv::{Kv, Pool};
use queue::Waiting;
use slot::Slot;

use crate::types::SessionKey;

pub use plan::{
    Counts, Drawn, JobId, Limits, Op, Plan, Request, Row, SeqId, Started, Ticket, Time,
};
pub use slot::Doing;

/// Idle sessions that may be copied to RAM before one step while answers stream: each copy takes as long
/// as a step, and all answers wait for it.
const PARKS: usize = 1;

/// The state of the engine between two steps.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    slots: Vec<Slot>,
    queue: Vec<Waiting>,
    ahead: VecDeque<Ahead>,
    kv: Kv,
    cost: Cost,
    ledger: Ledger,
    counts: Counts,
}

impl Scheduler {
    pub fn new(limits: Limits) -> Self {
        let pool = Pool {
            // Padding rows need cells of their own.
            cells: limits.cells.saturating_sub(limits.group as u32 - 1),
            sequences: limits.sequences() - 1,
            idle: limits.idle_sessions,
            park_bytes: limits.park_bytes,
            token_bytes: limits.token_bytes,
        };
        Self {
            slots: (0..limits.slots).map(|_| Slot::Idle).collect(),
            queue: Vec::new(),
            ahead: VecDeque::new(),
            kv: Kv::new(pool),
            cost: Cost::default(),
            ledger: Ledger::default(),
            counts: Counts::default(),
            limits,
        }
    }

    /// The longest prompt and answer together.
    pub fn context(&self) -> usize {
        self.limits
            .context
            .min(self.limits.cells as usize - (self.limits.group - 1))
    }

    /// Queues a request that fits [`Self::context`]; the caller has checked that its prompt is not
    /// empty.
    pub fn submit(&mut self, request: Request, now: Time) {
        self.queue.push(Waiting {
            request,
            submitted: now,
        });
    }

    /// The job's slot or place in the queue is free from the next plan on.
    pub fn cancel(&mut self, id: JobId, now: Time) {
        self.queue.retain(|waiting| waiting.request.id != id);
        let slot = self
            .slots
            .iter()
            .position(|slot| slot.work().is_some_and(|w| w.id == id));
        if let Some(slot) = slot {
            self.release(slot, now);
        }
    }

    /// Nothing of the session is kept, also not what waiting and running answers leave behind.
    pub fn forget(&mut self, session: &SessionKey, now: Time) {
        self.drop_ahead(session, now);
        for Waiting { request, .. } in &mut self.queue {
            if request.session.as_ref() == Some(session) {
                request.session = None;
            }
        }
        for slot in &mut self.slots {
            if let Some(work) = slot.work_mut()
                && work.session.as_ref() == Some(session)
            {
                work.session = None;
            }
        }
        self.kv.forget(session);
    }

    /// Gives up the KV that waits in RAM; what is in the cache itself takes no less when it goes.
    pub fn shed(&mut self) {
        self.kv.shed();
    }

    /// A restore failed: the sequence starts from nothing. The plan that asked for it is void.
    pub fn lost(&mut self, seq: SeqId) {
        self.kv.lost(seq);
    }

    /// The plan's step is not to be counted: the cache is cut back to what the books say.
    pub fn void(&mut self, plan: &Plan) {
        for row in &plan.rows {
            let from = self.kv.tokens(row.seq).len() as u32;
            if row.seq == self.pad_sequence() {
                self.kv.push(Op::Remove {
                    seq: row.seq,
                    from: 0,
                });
            } else if row.pos == from {
                self.kv.push(Op::Remove { seq: row.seq, from });
            }
        }
    }

    /// Nothing in the cache is believed any more. Parked copies stay. Call it with all slots
    /// cancelled.
    pub fn clear(&mut self) {
        self.kv.clear();
        self.ahead.clear();
        self.kv.push(Op::Remove {
            seq: self.pad_sequence(),
            from: 0,
        });
    }

    pub fn busy(&self) -> bool {
        self.slots.iter().any(|slot| !matches!(slot, Slot::Idle))
    }

    /// Whether [`Self::plan`] would find something to do.
    pub fn has_work(&self) -> bool {
        self.busy() || !self.queue.is_empty() || !self.ahead.is_empty()
    }

    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    pub fn doing(&self, slot: usize) -> Doing {
        self.slots[slot].doing()
    }

    pub fn cells_used(&self) -> usize {
        self.kv.used()
    }

    pub fn parked(&self) -> (usize, u64) {
        self.kv.parked()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Decides the next step. The rows are computed by then or the plan is dropped; either way
    /// [`Plan::ops`] must have been done.
    pub fn plan(&mut self, now: Time) -> Plan {
        let streaming = self.slots.iter().any(|s| matches!(s, Slot::Decode { .. }));
        self.kv
            .allow_parks(if streaming { PARKS } else { usize::MAX });
        let mut plan = Plan {
            started: self.start_waiting(now),
            ..Plan::default()
        };
        self.decodes(&mut plan);
        self.prefills(&mut plan, now);
        self.ahead(&mut plan, now);
        self.pad(&mut plan);
        plan.ops = self.kv.take_ops();
        plan
    }

    /// Takes in what the plan's rows brought after `took`; `drawn` has one entry for every entry of
    /// [`Plan::samples`].
    pub fn complete(&mut self, plan: Plan, drawn: &[Drawn], took: Duration, now: Time) {
        if !plan.rows.is_empty() {
            self.cost.observe(plan.rows.len(), took);
        }
        for (feeder, rows) in &plan.prefills {
            self.fed(*feeder, &plan.rows[rows.clone()], now);
        }
        for (sample, drawn) in plan.samples.iter().zip(drawn) {
            self.drew(sample, &plan.rows[sample.rows.clone()], drawn, now);
        }
        if plan.rows.iter().any(|row| row.seq == self.pad_sequence()) {
            self.kv.push(Op::Remove {
                seq: self.pad_sequence(),
                from: 0,
            });
        }
    }

    fn pad_sequence(&self) -> SeqId {
        (self.limits.sequences() - 1) as SeqId
    }
}
