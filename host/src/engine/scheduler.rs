//! What the next step computes: decisions only, no llama.cpp, no clock, no thread.
//!
//! Every step is one batch. First come the running answers, one row each (or a few more, when the
//! text can be guessed), then as many prompt tokens as fit the step's time budget. Prompts are
//! computed one at a time, shortest first with ageing, and a slot whose prompt waits holds its
//! place. When nobody waits, the next turn of an idle session is computed ahead.
//!
//! [`Scheduler::plan`] says what to do, [`Scheduler::complete`] takes in what came out; nothing is
//! believed to be in the cache before that.

mod cost;
mod fair;
mod kv;
mod lookup;
#[cfg(test)]
mod properties;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cost::Cost;
use fair::Ledger;
use kv::{Kv, Pool, Want};
use lookup::Lookup;

use crate::types::{SessionKey, Token};

pub use kv::MAX_HEADS;

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
    /// Longest step while answers stream; `None`: four times a step of one group.
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
    /// Copy the sequence to RAM and drop it.
    Park { seq: SeqId, ticket: Ticket },
    /// Put a parked sequence of `len` tokens back, and forget the copy.
    Restore { seq: SeqId, ticket: Ticket, len: u32 },
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
    prefills: Vec<(Feeder, Range<usize>)>,
}

#[derive(Clone, Copy, Debug)]
enum Feeder {
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

#[derive(Debug)]
struct Work {
    id: JobId,
    session: Option<SessionKey>,
    seq: SeqId,
    prompt: Arc<[Token]>,
    head: usize,
    max_tokens: usize,
    submitted: Time,
}

#[derive(Debug)]
enum Slot {
    Idle,
    /// The cache holds the first tokens of the prompt.
    Prefill(Work),
    /// The cache holds everything but `next`, the last token drawn.
    Decode { work: Work, next: Token, drawn: usize, lookup: Lookup },
}

#[derive(Debug)]
struct Waiting {
    request: Request,
    submitted: Time,
}

/// A session's next prompt, computed ahead.
#[derive(Debug)]
struct Ahead {
    session: SessionKey,
    tokens: Arc<[Token]>,
    /// Has a sequence once it was begun.
    seq: Option<SeqId>,
}

/// What a slot does, for the status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    Idle,
    Prefill,
    Decode,
}

/// Counts of what was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub prefilled: u64,
    pub prepared: u64,
    pub drafted: u64,
    pub draft_hits: u64,
}

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
        self.limits.context.min(self.limits.cells as usize - (self.limits.group - 1))
    }

    /// Queues a request that fits [`Self::context`]; the caller has checked that its prompt is not
    /// empty.
    pub fn submit(&mut self, request: Request, now: Time) {
        self.queue.push(Waiting { request, submitted: now });
    }

    /// The job's slot or place in the queue is free from the next plan on.
    pub fn cancel(&mut self, id: JobId, now: Time) {
        self.queue.retain(|waiting| waiting.request.id != id);
        let slot = self.slots.iter().position(|slot| slot.work().is_some_and(|w| w.id == id));
        if let Some(slot) = slot {
            self.release(slot, now);
        }
    }

    /// Remembers what the session's next prompt starts with.
    pub fn prepare(&mut self, session: SessionKey, tokens: Arc<[Token]>, now: Time) {
        self.drop_ahead(&session, now);
        if !tokens.is_empty() && tokens.len() < self.context() {
            self.ahead.push_back(Ahead { session, tokens, seq: None });
        }
    }

    /// Nothing of the session is kept, also not what a running answer leaves behind.
    pub fn forget(&mut self, session: &SessionKey, now: Time) {
        self.drop_ahead(session, now);
        for slot in &mut self.slots {
            if let Some(work) = slot.work_mut()
                && work.session.as_ref() == Some(session)
            {
                work.session = None;
            }
        }
        self.kv.forget(session);
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
                self.kv.push(Op::Remove { seq: row.seq, from: 0 });
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
        self.kv.push(Op::Remove { seq: self.pad_sequence(), from: 0 });
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

    /// The waiting jobs, next one first.
    pub fn order(&self, now: Time) -> Vec<JobId> {
        let mut order: Vec<_> =
            self.queue.iter().map(|waiting| (self.waiting_score(waiting, now), waiting.request.id)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        order.into_iter().map(|(_, id)| id).collect()
    }

    pub fn doing(&self, slot: usize) -> Doing {
        match self.slots[slot] {
            Slot::Idle => Doing::Idle,
            Slot::Prefill(_) => Doing::Prefill,
            Slot::Decode { .. } => Doing::Decode,
        }
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
        let mut plan = Plan { started: self.start_waiting(now), ..Plan::default() };
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
            self.kv.push(Op::Remove { seq: self.pad_sequence(), from: 0 });
        }
    }

    fn pad_sequence(&self) -> SeqId {
        (self.limits.sequences() - 1) as SeqId
    }

    /// Moves jobs from the queue to free slots, in order: the first one that finds no room stops
    /// the others, or a large prompt would wait for ever behind small ones.
    fn start_waiting(&mut self, now: Time) -> Vec<Started> {
        let mut started = Vec::new();
        while let Some(slot) = self.slots.iter().position(|slot| matches!(slot, Slot::Idle)) {
            let next = self.queue.iter().enumerate().min_by(|(_, a), (_, b)| {
                self.waiting_score(a, now).total_cmp(&self.waiting_score(b, now))
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
        if let Some(session) = &request.session {
            let uncached = request.prompt.len() - acquired.cached;
            self.ledger.charge(session, uncached as u32, now);
        }
        self.slots[slot] = Slot::Prefill(Work {
            id: request.id,
            session: request.session,
            seq: acquired.seq,
            prompt: request.prompt,
            head: request.head,
            max_tokens: request.max_tokens,
            submitted: waiting.submitted,
        });
        Some(Started { id: request.id, slot, cached: acquired.cached })
    }

    fn decodes(&mut self, plan: &mut Plan) {
        let running = self.slots.iter().filter(|s| matches!(s, Slot::Decode { .. })).count();
        let prompts = self.slots.iter().any(|s| matches!(s, Slot::Prefill(_)));
        let guess = self.limits.speculation && running <= 2 && !prompts;
        let (kv, cost) = (&self.kv, &self.cost);
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Slot::Decode { work, next, drawn, lookup } = slot else { continue };
            let begin = plan.rows.len();
            let context = kv.tokens(work.seq);
            let pos = context.len();
            let mut tokens = vec![*next];
            if guess {
                let most = lookup::MOST.min(work.max_tokens - *drawn - 1);
                let guessed = lookup::guess(context, *next, most);
                let ratio = guess_ratio(cost, running, guessed.len());
                if !guessed.is_empty() && lookup.pays(ratio) {
                    tokens.extend(guessed);
                }
            }
            let rows = tokens.into_iter().enumerate().map(|(i, token)| Row {
                seq: work.seq,
                pos: (pos + i) as u32,
                token,
                logits: true,
            });
            plan.rows.extend(rows);
            plan.samples.push(Sample { slot: at, rows: begin..plan.rows.len() });
        }
    }

    fn prefills(&mut self, plan: &mut Plan, now: Time) {
        let mut order: Vec<_> = (0..self.slots.len())
            .filter_map(|at| match &self.slots[at] {
                Slot::Prefill(work) => Some((self.work_score(work, now), at)),
                _ => None,
            })
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let beside = !plan.rows.is_empty();
        for (_, at) in order {
            let Slot::Prefill(work) = &self.slots[at] else { continue };
            let done = self.kv.tokens(work.seq).len();
            let left = &work.prompt[done..];
            let chunk = self.chunk(plan.rows.len(), left.len(), beside);
            if chunk == 0 {
                break;
            }
            let begin = plan.rows.len();
            feed(plan, work.seq, done, &left[..chunk]);
            if chunk == left.len() {
                let last = plan.rows.len() - 1;
                plan.rows[last].logits = true;
                plan.samples.push(Sample { slot: at, rows: last..last + 1 });
            }
            plan.prefills.push((Feeder::Slot(at), begin..plan.rows.len()));
            // One prompt at a time; only the rest of a budget goes to the next one.
            if !beside {
                break;
            }
        }
    }

    /// Computes an idle session's next prompt, if no prompt of a request waits.
    fn ahead(&mut self, plan: &mut Plan, now: Time) {
        let waits = !self.queue.is_empty() || self.slots.iter().any(|s| matches!(s, Slot::Prefill(_)));
        if waits {
            return;
        }
        // A session that is being answered keeps its sequence until the answer is there.
        let answered = |slots: &[Slot], session: &SessionKey| {
            slots.iter().any(|slot| slot.work().is_some_and(|w| w.session.as_ref() == Some(session)))
        };
        let begun = self.ahead.iter().position(|ahead| !answered(&self.slots, &ahead.session));
        while let Some(mut ahead) = begun.and_then(|at| self.ahead.remove(at)) {
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
            let chunk = self.ahead_chunk(plan.rows.len(), left.len());
            let begin = plan.rows.len();
            feed(plan, seq, done, &left[..chunk]);
            if chunk > 0 {
                plan.prefills.push((Feeder::Ahead, begin..plan.rows.len()));
            }
            self.ahead.push_front(ahead);
            return;
        }
    }

    /// Prompt tokens for this step, with `rows` in it already.
    fn chunk(&self, rows: usize, left: usize, beside: bool) -> usize {
        let group = self.limits.group;
        let most = self.limits.max_rows.saturating_sub(rows + group);
        if !beside {
            return left.min(self.limits.max_chunk).min(most);
        }
        let total = self.cost.rows_within(self.budget(), group, rows + self.limits.max_chunk);
        // A full group at least where this step has no prompt tokens yet.
        let floor = if rows <= self.limits.slots { group.max(rows + group) / group * group } else { 0 };
        let chunk = total.max(floor).saturating_sub(rows);
        chunk.min(left).min(most)
    }

    /// Giving way means short pieces: nobody knows when the next request comes.
    fn ahead_chunk(&self, rows: usize, left: usize) -> usize {
        self.chunk(rows, left, true)
    }

    fn budget(&self) -> f64 {
        match self.limits.budget {
            Some(budget) => budget.as_secs_f64(),
            None => 4.0 * self.cost.seconds(self.limits.group).unwrap_or_default(),
        }
    }

    /// Three rows can cost more than four: adds the row that completes a group when it pays.
    fn pad(&mut self, plan: &mut Plan) {
        let (rows, group) = (plan.rows.len(), self.limits.group);
        if group < 2 || rows == 0 || rows % group != group - 1 {
            return;
        }
        // Both ways are tried once; large steps always gain.
        let pays = match (self.cost.measured(rows), self.cost.measured(rows + 1)) {
            (Some(without), Some(with)) => with <= without,
            (None, Some(_)) if rows < group => false,
            _ => true,
        };
        if pays {
            plan.rows.push(Row { seq: self.pad_sequence(), pos: 0, token: 0, logits: false });
        }
    }

    fn fed(&mut self, feeder: Feeder, rows: &[Row], now: Time) {
        let tokens: Vec<Token> = rows.iter().map(|row| row.token).collect();
        match feeder {
            Feeder::Slot(at) => {
                let Slot::Prefill(work) = &self.slots[at] else { return };
                self.counts.prefilled += tokens.len() as u64;
                self.kv.extend(work.seq, &tokens);
                if self.kv.tokens(work.seq).len() >= work.head {
                    self.kv.make_head(work.seq, work.head, now);
                }
            }
            Feeder::Ahead => {
                let Some(ahead) = self.ahead.front() else { return };
                let Some(seq) = ahead.seq else { return };
                self.counts.prepared += tokens.len() as u64;
                self.kv.extend(seq, &tokens);
                if self.kv.tokens(seq).len() >= ahead.tokens.len() {
                    let session = ahead.session.clone();
                    self.ahead.pop_front();
                    self.kv.release(seq, Some(session), now);
                }
            }
        }
    }

    fn drew(&mut self, sample: &Sample, rows: &[Row], drawn: &Drawn, now: Time) {
        let Some(&last) = drawn.tokens.last() else { return };
        match &mut self.slots[sample.slot] {
            Slot::Idle => return,
            slot @ Slot::Prefill(_) => {
                let Slot::Prefill(work) = std::mem::replace(slot, Slot::Idle) else { return };
                *slot = Slot::Decode { work, next: last, drawn: 1, lookup: Lookup::default() };
            }
            Slot::Decode { work, next, drawn: count, lookup } => {
                let right = drawn.tokens.len() - 1;
                if rows.len() > 1 {
                    lookup.record(right);
                    self.counts.drafted += rows.len() as u64 - 1;
                    self.counts.draft_hits += right as u64;
                }
                let computed: Vec<Token> = rows[..=right].iter().map(|row| row.token).collect();
                self.kv.extend(work.seq, &computed);
                if rows.len() > right + 1 {
                    let from = rows[right + 1].pos;
                    self.kv.push(Op::Remove { seq: work.seq, from });
                }
                *next = last;
                *count += drawn.tokens.len();
            }
        }
        let full = match &self.slots[sample.slot] {
            Slot::Decode { work, drawn, .. } => *drawn >= work.max_tokens,
            Slot::Idle | Slot::Prefill(_) => false,
        };
        if drawn.end || full {
            self.release(sample.slot, now);
        }
    }

    fn release(&mut self, slot: usize, now: Time) {
        match std::mem::replace(&mut self.slots[slot], Slot::Idle) {
            Slot::Idle => {}
            Slot::Prefill(work) | Slot::Decode { work, .. } => {
                self.kv.release(work.seq, work.session, now);
            }
        }
    }

    /// Stops computing ahead; what is computed stays with its session.
    fn pause_ahead(&mut self, now: Time) {
        for ahead in &mut self.ahead {
            if let Some(seq) = ahead.seq.take() {
                self.kv.release(seq, Some(ahead.session.clone()), now);
            }
        }
    }

    fn drop_ahead(&mut self, session: &SessionKey, now: Time) {
        if let Some(at) = self.ahead.iter().position(|ahead| ahead.session == *session)
            && let Some(ahead) = self.ahead.remove(at)
            && let Some(seq) = ahead.seq
        {
            self.kv.release(seq, Some(ahead.session), now);
        }
    }

    fn waiting_score(&self, waiting: &Waiting, now: Time) -> f64 {
        let request = &waiting.request;
        let cached = self.kv.cached(request.session.as_ref(), &request.prompt, request.head);
        let left = request.prompt.len() - cached;
        self.score(request.session.as_ref(), left, waiting.submitted, now)
    }

    fn work_score(&self, work: &Work, now: Time) -> f64 {
        let left = work.prompt.len() - self.kv.tokens(work.seq).len();
        self.score(work.session.as_ref(), left, work.submitted, now)
    }

    fn score(&self, session: Option<&SessionKey>, left: usize, submitted: Time, now: Time) -> f64 {
        let waited = now.saturating_sub(submitted);
        self.ledger.score(session, left, waited, self.cost.rows_per_second(), now)
    }
}

impl Slot {
    fn work(&self) -> Option<&Work> {
        match self {
            Slot::Idle => None,
            Slot::Prefill(work) | Slot::Decode { work, .. } => Some(work),
        }
    }

    fn work_mut(&mut self) -> Option<&mut Work> {
        match self {
            Slot::Idle => None,
            Slot::Prefill(work) | Slot::Decode { work, .. } => Some(work),
        }
    }
}

fn feed(plan: &mut Plan, seq: SeqId, from: usize, tokens: &[Token]) {
    let rows = tokens.iter().enumerate().map(|(i, &token)| Row {
        seq,
        pos: (from + i) as u32,
        token,
        logits: false,
    });
    plan.rows.extend(rows);
}

/// Time of a step in which one of `running` answers guesses, over one without.
fn guess_ratio(cost: &Cost, running: usize, guessed: usize) -> f64 {
    match (cost.measured(running), cost.measured(running + guessed)) {
        (Some(without), Some(with)) => with / without,
        // Not measured yet: try.
        _ => 1.0,
    }
}
