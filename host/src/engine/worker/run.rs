//! The thread's loop: commands, plan, cache work, step, tokens, status.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc as channel;
use std::time::{Duration, Instant};

use super::jobs::{self, Active};
use super::watchdog::Stage;
use super::{BLOCKED_POLL, Command, Device, OpError, Shared, Submitted};
use crate::engine::scheduler::{Doing, Drawn, JobId, Op, Plan, Request, Scheduler, SeqId, Time};
use crate::engine::{EngineError, Totals};
use crate::types::{Finish, Tokenizer};

/// What came of a plan's work on the cache. If it is not whole the plan is void, and the next one knows
/// more.
enum Moved {
    Whole,
    /// These sequences could not be put back, and are empty.
    Lost(Vec<SeqId>),
    Broken,
}

/// The loop's state.
pub struct Worker<'a> {
    pub device: &'a mut dyn Device,
    pub scheduler: Scheduler,
    pub tokenizer: Arc<dyn Tokenizer>,
    pub inbox: &'a channel::Receiver<Command>,
    pub shared: &'a Shared,
    pub start: Instant,
    pub active: HashMap<JobId, Active>,
    pub next_id: JobId,
    pub totals: Totals,
    pub stall_after: Duration,
}

impl Worker<'_> {
    pub fn run(mut self) {
        let mut progress = true;
        while self.receive(progress) {
            self.drop_cancelled();
            progress = self.step();
            self.publish();
        }
        for (_, active) in self.active.drain() {
            active.fail(EngineError::Stopped);
        }
    }

    pub fn now(&self) -> Time {
        self.start.elapsed()
    }

    /// Takes in all commands; waits for one when there is nothing to do. False: stop.
    fn receive(&mut self, progress: bool) -> bool {
        let first = if !self.scheduler.has_work() {
            self.inbox
                .recv()
                .map_err(|_| channel::RecvTimeoutError::Disconnected)
        } else if !progress {
            // Work that cannot go on is looked at again soon: someone may cancel.
            self.inbox.recv_timeout(BLOCKED_POLL)
        } else {
            Err(channel::RecvTimeoutError::Timeout)
        };
        match first {
            Ok(command) => {
                if !self.take(command) {
                    return false;
                }
            }
            Err(channel::RecvTimeoutError::Timeout) => {}
            Err(channel::RecvTimeoutError::Disconnected) => return false,
        }
        loop {
            match self.inbox.try_recv() {
                Ok(command) => {
                    if !self.take(command) {
                        return false;
                    }
                }
                Err(channel::TryRecvError::Empty) => return true,
                Err(channel::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn take(&mut self, command: Command) -> bool {
        let now = self.now();
        match command {
            Command::Stop => return false,
            Command::Prepare(session, tokens) => self.scheduler.prepare(session, tokens, now),
            Command::Forget(session) => self.scheduler.forget(&session, now),
            Command::Shed => self.scheduler.shed(),
            Command::Submit(submitted) => self.submit(*submitted),
        }
        true
    }

    fn submit(&mut self, submitted: Submitted) {
        let Submitted {
            job,
            sampler,
            permit,
            events,
            cancel,
            at,
        } = submitted;
        self.next_id += 1;
        let id = self.next_id;
        let request = Request {
            id,
            tenant: job.tenant.clone(),
            session: job.session.clone(),
            prompt: Arc::clone(&job.prompt),
            head: job.head as usize,
            max_tokens: job.max_tokens as usize,
        };
        self.active
            .insert(id, Active::new(job, permit, events, cancel, sampler, at));
        let submitted = at.saturating_duration_since(self.start);
        self.scheduler.submit(request, submitted);
    }

    /// Whoever lost interest frees the slot before the next step.
    fn drop_cancelled(&mut self) {
        let gone: Vec<JobId> = self
            .active
            .iter()
            .filter(|(_, active)| active.cancelled())
            .map(|(id, _)| *id)
            .collect();
        let now = self.now();
        for id in gone {
            self.scheduler.cancel(id, now);
            if let Some(active) = self.active.remove(&id) {
                active.finish(Finish::Cancelled);
            }
        }
    }

    /// One step; false when there was nothing that could be done.
    fn step(&mut self) -> bool {
        let now = self.now();
        let plan = self.scheduler.plan(now);
        for started in &plan.started {
            if let Some(active) = self.active.get_mut(&started.id) {
                active.place(started.slot);
            }
        }
        self.tell_positions(now);
        if !plan.started.is_empty() {
            // A first piece of a prompt can take seconds.
            self.publish();
        }
        self.watch(&plan);
        let moved = self.apply(&plan);
        self.tell_started(&plan, &moved);
        let whole = matches!(moved, Moved::Whole);
        if !whole || plan.rows.is_empty() {
            self.shared.watch.end();
            return !whole || !plan.ops.is_empty();
        }
        self.shared.watch.enter(Stage::Computing);
        let begun = Instant::now();
        let result = self.device.step(&plan.rows);
        let took = begun.elapsed();
        tracing::trace!(
            rows = plan.rows.len(),
            answers = plan.samples.len(),
            ?took,
            "step"
        );
        self.totals.steps += 1;
        match result {
            Ok(()) if took > self.stall_after => {
                let told = self.shared.watch.end();
                self.reclaim(&plan.slots(), took, told);
                // What was computed is computed again: the books do not know of it.
                self.scheduler.void(&plan);
            }
            Ok(()) => {
                let slots = plan.slots();
                self.shared.watch.enter(Stage::Drawing);
                self.draw(plan, took);
                if self.shared.watch.end() {
                    self.reclaim(&slots, begun.elapsed(), true);
                }
            }
            Err(reason) => {
                self.shared.watch.end();
                self.fail_all(&EngineError::Decode(reason));
            }
        }
        true
    }

    /// Only now it is known what of a prompt is really there.
    fn tell_started(&mut self, plan: &Plan, moved: &Moved) {
        for started in &plan.started {
            let lost = matches!(moved, Moved::Lost(seqs) if seqs.contains(&started.seq));
            let cached = if lost { 0 } else { started.cached };
            if let Some(active) = self.active.get_mut(&started.id) {
                self.totals.reused += cached as u64;
                active.started(cached);
            }
        }
    }

    fn apply(&mut self, plan: &Plan) -> Moved {
        let mut lost = Vec::new();
        for &op in &plan.ops {
            match op {
                Op::Park { .. } => self.totals.parks += 1,
                Op::Restore { .. } => self.totals.restores += 1,
                Op::Remove { .. } | Op::Share { .. } | Op::Adopt { .. } | Op::Discard { .. } => {}
            }
            match self.device.apply(op) {
                Ok(()) => {}
                Err(OpError::Lost(seq)) => {
                    tracing::warn!(
                        seq,
                        "a parked session could not be restored and is computed again"
                    );
                    self.scheduler.lost(seq);
                    lost.push(seq);
                }
                Err(OpError::Broken(reason)) => {
                    self.fail_all(&EngineError::Decode(reason));
                    return Moved::Broken;
                }
            }
        }
        if lost.is_empty() {
            Moved::Whole
        } else {
            Moved::Lost(lost)
        }
    }

    fn draw(&mut self, plan: Plan, took: Duration) {
        let mut all = Vec::with_capacity(plan.samples.len());
        let mut over = Vec::new();
        for sample in &plan.samples {
            let mut drawn = Drawn {
                tokens: Vec::new(),
                end: false,
            };
            let found = self
                .active
                .iter_mut()
                .find(|(_, active)| active.slot() == Some(sample.slot));
            if let Some((&id, active)) = found {
                let rows = sample.rows.clone();
                let guessed = rows
                    .clone()
                    .skip(1)
                    .map(|row| Some(plan.rows[row].token))
                    .chain([None]);
                for (row, guess) in rows.zip(guessed) {
                    let token = match self.device.draw(row, &mut active.sampler) {
                        Ok(token) => token,
                        Err(reason) => {
                            over.push((id, Err(EngineError::Grammar(reason))));
                            drawn.end = true;
                            // The scheduler frees the slot; the token itself is never used.
                            drawn.tokens.push(0);
                            break;
                        }
                    };
                    drawn.tokens.push(token);
                    let end = self.device.is_end(token);
                    let finish = active.drew(token, end, &*self.tokenizer);
                    if !end {
                        self.totals.generated += 1;
                    }
                    if let Some(finish) = finish {
                        drawn.end = true;
                        over.push((id, Ok(finish)));
                        break;
                    }
                    if guess != Some(token) {
                        break;
                    }
                }
                active.flush();
            } else {
                drawn.end = true;
                drawn.tokens.push(0);
            }
            all.push(drawn);
        }
        let now = self.now();
        self.scheduler.complete(plan, &all, took, now);
        // The slot is free by now: only then the permit goes and the client is told.
        for (id, end) in over {
            let Some(active) = self.active.remove(&id) else {
                continue;
            };
            match end {
                Ok(finish) => active.finish(finish),
                Err(error) => active.fail(error),
            }
        }
    }

    /// A failed step leaves the cache in an unknown state: everything starts from nothing.
    fn fail_all(&mut self, error: &EngineError) {
        tracing::error!(%error, "all running answers end");
        let now = self.now();
        let running: Vec<JobId> = self
            .active
            .iter()
            .filter(|(_, a)| a.slot().is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in running {
            self.scheduler.cancel(id, now);
            if let Some(active) = self.active.remove(&id) {
                active.fail(error.clone());
            }
        }
        self.scheduler.clear();
    }

    fn tell_positions(&mut self, now: Time) {
        if self.scheduler.queued() == 0 {
            return;
        }
        for (position, id) in self.scheduler.order(now).into_iter().enumerate() {
            if let Some(active) = self.active.get_mut(&id) {
                active.queued(position);
            }
        }
    }

    fn publish(&mut self) {
        let counts = self.scheduler.counts();
        let (sessions, bytes) = self.scheduler.parked();
        self.totals.prefilled = counts.prefilled;
        self.totals.prepared = counts.prepared;
        self.totals.drafted = counts.drafted;
        self.totals.draft_hits = counts.draft_hits;
        self.totals.parked_sessions = sessions as u64;
        self.totals.parked_bytes = bytes;
        let mut status = self.shared.status();
        status.totals = self.totals;
        status.queued = self.scheduler.queued();
        status.kv_cells_used = self.scheduler.cells_used() as u32;
        for slot in &mut status.slots {
            let active = self
                .active
                .values()
                .find(|active| active.slot() == Some(slot.slot));
            match (self.scheduler.doing(slot.slot), active) {
                (Doing::Idle, _) | (_, None) => jobs::show_idle(slot),
                (Doing::Prefill, Some(active)) => active.show("prefill", slot),
                (Doing::Decode, Some(active)) => active.show("decode", slot),
            }
        }
    }
}
