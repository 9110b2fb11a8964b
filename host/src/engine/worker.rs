//! The engine's thread: takes jobs in, runs the scheduler's plans on a [`Device`], sends text out.

mod jobs;
mod watchdog;

use std::collections::HashMap;
use std::sync::mpsc as channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::sampling::Sampler;
use super::scheduler::{Doing, Drawn, JobId, Limits, Op, Plan, Request, Row, Scheduler, SeqId, Time};
use super::{Engine, EngineError, Event, Job, Running, SlotStatus, Status, Totals};
use crate::types::{Finish, ModelInfo, Sampling, SessionKey, SlotPermit, Token, Tokenizer};
use jobs::Active;
use watchdog::Watchdog;

/// What computes. Lives on the engine thread, is made there and never leaves it.
pub trait Device {
    /// Prepares the way in which one answer's tokens are drawn.
    fn sampler(&self, how: Sampling, prompt: &[Token]) -> Result<Sampler, EngineError>;
    /// Does one piece of work on the cache.
    fn apply(&mut self, op: Op) -> Result<(), OpError>;
    /// Computes the rows.
    fn step(&mut self, rows: &[Row]) -> Result<(), String>;
    /// Draws a token after row `row` of the last step.
    fn draw(&mut self, row: usize, sampler: &mut Sampler) -> Result<Token, String>;
    /// Whether the token ends the answer.
    fn is_end(&self, token: Token) -> bool;
}

/// Why work on the cache failed.
#[derive(Debug)]
pub enum OpError {
    /// A parked sequence could not be put back; it is empty now.
    Lost(SeqId),
    /// The cache is not what it should be.
    Broken(String),
}

/// How often work that cannot go on is looked at.
const BLOCKED_POLL: Duration = Duration::from_millis(20);

/// What the outside holds: implements [`Engine`] by sending to the thread, which it owns.
pub struct Handle {
    model: ModelInfo,
    tokenizer: Arc<dyn Tokenizer>,
    context: usize,
    commands: channel::Sender<Command>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    watchdog: Watchdog,
}

/// What the thread shows to the outside.
pub struct Shared {
    status: Mutex<Status>,
    watch: watchdog::Watch,
}

enum Command {
    Submit(Box<Submitted>),
    Prepare(SessionKey, Arc<[Token]>),
    Forget(SessionKey),
    Stop,
}

struct Submitted {
    job: Job,
    permit: SlotPermit,
    events: mpsc::UnboundedSender<Event>,
    cancel: CancellationToken,
    at: Instant,
}

/// What a worker is made of.
pub struct Parts {
    pub model: ModelInfo,
    pub tokenizer: Arc<dyn Tokenizer>,
    pub limits: Limits,
    pub stall_after: Duration,
    pub locked_bytes: u64,
}

/// Starts the thread. `open` runs on it: it makes the device and hands it to the loop, or says why
/// there is none.
pub fn start<E, F>(parts: Parts, open: F) -> Result<Handle, E>
where
    E: From<std::io::Error> + Send + 'static,
    F: FnOnce(&mut dyn FnMut(&mut dyn Device)) -> Result<(), E> + Send + 'static,
{
    let (commands, inbox) = channel::channel();
    let (ready, made) = channel::sync_channel(1);
    let scheduler = Scheduler::new(parts.limits.clone());
    let context = scheduler.context();
    let shared = Arc::new(Shared::new(&parts));
    let tokenizer = Arc::clone(&parts.tokenizer);
    let worker_shared = Arc::clone(&shared);
    let totals = Totals { locked_bytes: parts.locked_bytes, ..Totals::default() };
    let stall_after = parts.stall_after;
    let thread = std::thread::Builder::new().name("engine".into()).spawn(move || {
        let mut scheduler = Some(scheduler);
        let failed = ready.clone();
        let mut run = |device: &mut dyn Device| {
            let _ = ready.send(Ok(()));
            if let Some(scheduler) = scheduler.take() {
                let worker = Worker {
                    device,
                    scheduler,
                    tokenizer: Arc::clone(&tokenizer),
                    inbox: &inbox,
                    shared: &worker_shared,
                    start: Instant::now(),
                    active: HashMap::new(),
                    next_id: 0,
                    totals,
                    stall_after,
                };
                worker.run();
            }
        };
        if let Err(error) = open(&mut run) {
            let _ = failed.send(Err(error));
        }
        worker_shared.stopped();
    })?;
    match made.recv() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(std::io::Error::other("it ended while it was set up").into()),
    }
    let watchdog = Watchdog::start(Arc::clone(&shared), parts.stall_after)?;
    Ok(Handle {
        model: parts.model,
        tokenizer: parts.tokenizer,
        context,
        commands,
        shared,
        thread: Some(thread),
        watchdog,
    })
}

impl Engine for Handle {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn tokenizer(&self) -> Arc<dyn Tokenizer> {
        Arc::clone(&self.tokenizer)
    }

    fn submit(&self, job: Job, permit: SlotPermit) -> Running {
        let (events, receiver) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let guard = cancel.clone().drop_guard();
        let prompt = job.prompt.len();
        if prompt == 0 || prompt + job.max_tokens as usize > self.context {
            let context = self.context as u32;
            let error = EngineError::TooLong { prompt: prompt as u32, output: job.max_tokens, context };
            let _ = events.send(Event::Failed(error));
            return Running { events: receiver, cancel: guard };
        }
        let at = Instant::now();
        let submitted = Box::new(Submitted { job, permit, events, cancel, at });
        if let Err(refused) = self.commands.send(Command::Submit(submitted))
            && let Command::Submit(submitted) = refused.0
        {
            let _ = submitted.events.send(Event::Failed(EngineError::Stopped));
        }
        Running { events: receiver, cancel: guard }
    }

    fn prepare(&self, session: &SessionKey, tokens: Arc<[Token]>) {
        let _ = self.commands.send(Command::Prepare(session.clone(), tokens));
    }

    fn forget(&self, session: &SessionKey) {
        let _ = self.commands.send(Command::Forget(session.clone()));
    }

    fn status(&self) -> Status {
        let mut status = self.shared.status().clone();
        if let Some(stall) = self.watchdog.stall() {
            status.ready = false;
            status.reason = Some(stall);
        }
        status
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine's thread panicked");
        }
    }
}

impl Shared {
    fn new(parts: &Parts) -> Self {
        let idle = |slot| SlotStatus {
            slot,
            state: "idle",
            session: None,
            prompt_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            tokens_per_second: 0.0,
        };
        let status = Status {
            ready: true,
            reason: None,
            slots: (0..parts.limits.slots).map(idle).collect(),
            queued: 0,
            kv_cells_used: 0,
            kv_cells: parts.limits.cells,
            totals: Totals { locked_bytes: parts.locked_bytes, ..Totals::default() },
        };
        Self { status: Mutex::new(status), watch: watchdog::Watch::default() }
    }

    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        // A status is whole at every moment: whoever panicked with the lock left it readable.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) {
        let mut status = self.status();
        status.ready = false;
        status.reason = Some(EngineError::Stopped.to_string());
    }
}

struct Worker<'a> {
    device: &'a mut dyn Device,
    scheduler: Scheduler,
    tokenizer: Arc<dyn Tokenizer>,
    inbox: &'a channel::Receiver<Command>,
    shared: &'a Shared,
    start: Instant,
    active: HashMap<JobId, Active>,
    next_id: JobId,
    totals: Totals,
    stall_after: Duration,
}

impl Worker<'_> {
    fn run(mut self) {
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

    fn now(&self) -> Time {
        self.start.elapsed()
    }

    /// Takes in all commands; waits for one when there is nothing to do. False: stop.
    fn receive(&mut self, progress: bool) -> bool {
        let first = if !self.scheduler.has_work() {
            self.inbox.recv().map_err(|_| channel::RecvTimeoutError::Disconnected)
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
            Command::Submit(submitted) => self.submit(*submitted),
        }
        true
    }

    fn submit(&mut self, submitted: Submitted) {
        let Submitted { job, permit, events, cancel, at } = submitted;
        let sampler = match self.device.sampler(job.sampling.clone(), &job.prompt) {
            Ok(sampler) => sampler,
            Err(error) => {
                drop(permit);
                let _ = events.send(Event::Failed(error));
                return;
            }
        };
        self.next_id += 1;
        let id = self.next_id;
        let request = Request {
            id,
            session: job.session.clone(),
            prompt: Arc::clone(&job.prompt),
            head: job.head as usize,
            max_tokens: job.max_tokens as usize,
        };
        self.active.insert(id, Active::new(job, permit, events, cancel, sampler, at));
        let submitted = at.saturating_duration_since(self.start);
        self.scheduler.submit(request, submitted);
    }

    /// Whoever lost interest frees the slot before the next step.
    fn drop_cancelled(&mut self) {
        let gone: Vec<JobId> =
            self.active.iter().filter(|(_, active)| active.cancelled()).map(|(id, _)| *id).collect();
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
                self.totals.reused += started.cached as u64;
                active.started(started.slot, started.cached);
            }
        }
        self.tell_positions(now);
        if !self.apply(&plan) {
            return true;
        }
        if plan.rows.is_empty() {
            return !plan.ops.is_empty();
        }
        self.shared.watch.begin(&plan);
        let begun = Instant::now();
        let result = self.device.step(&plan.rows);
        let took = begun.elapsed();
        self.shared.watch.end();
        self.totals.steps += 1;
        match result {
            Ok(()) if took > self.stall_after => self.reclaim(&plan, took),
            Ok(()) => self.draw(plan, took),
            Err(reason) => self.fail_all(&EngineError::Decode(reason)),
        }
        true
    }

    /// The step came back after all, but too late: its slots are taken from their answers.
    fn reclaim(&mut self, plan: &Plan, stalled: Duration) {
        let now = self.now();
        for sample in &plan.samples {
            let found = self.active.iter().find(|(_, a)| a.slot() == Some(sample.slot)).map(|(id, _)| *id);
            let Some(id) = found else { continue };
            self.scheduler.cancel(id, now);
            if let Some(active) = self.active.remove(&id) {
                active.fail(EngineError::Stalled { slot: sample.slot, stalled });
            }
        }
        // What the others computed in that step is computed again: the books do not know of it.
        self.scheduler.void(plan);
    }

    /// False: the plan is void, the next one knows more.
    fn apply(&mut self, plan: &Plan) -> bool {
        let mut whole = true;
        for &op in &plan.ops {
            match op {
                Op::Park { .. } => self.totals.parks += 1,
                Op::Restore { .. } => self.totals.restores += 1,
                Op::Remove { .. } | Op::Share { .. } | Op::Discard { .. } => {}
            }
            match self.device.apply(op) {
                Ok(()) => {}
                Err(OpError::Lost(seq)) => {
                    tracing::warn!(seq, "a parked session could not be restored and is computed again");
                    self.scheduler.lost(seq);
                    whole = false;
                }
                Err(OpError::Broken(reason)) => {
                    self.fail_all(&EngineError::Decode(reason));
                    whole = false;
                }
            }
        }
        whole
    }

    fn draw(&mut self, plan: Plan, took: Duration) {
        let mut all = Vec::with_capacity(plan.samples.len());
        let mut over = Vec::new();
        for sample in &plan.samples {
            let mut drawn = Drawn { tokens: Vec::new(), end: false };
            let found = self.active.iter_mut().find(|(_, active)| active.slot() == Some(sample.slot));
            if let Some((&id, active)) = found {
                let rows = sample.rows.clone();
                let guessed = rows.clone().skip(1).map(|row| Some(plan.rows[row].token)).chain([None]);
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
            let Some(active) = self.active.remove(&id) else { continue };
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
        let running: Vec<JobId> =
            self.active.iter().filter(|(_, a)| a.slot().is_some()).map(|(id, _)| *id).collect();
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
            let active = self.active.values().find(|active| active.slot() == Some(slot.slot));
            match (self.scheduler.doing(slot.slot), active) {
                (Doing::Idle, _) | (_, None) => jobs::show_idle(slot),
                (Doing::Prefill, Some(active)) => active.show("prefill", slot),
                (Doing::Decode, Some(active)) => active.show("decode", slot),
            }
        }
    }
}
