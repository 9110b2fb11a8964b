//! The engine's thread: takes jobs in, runs the scheduler's plans on a [`Device`], sends text out.

mod jobs;
mod open;
mod reclaim;
mod run;
mod watchdog;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::mpsc as channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::sampling::{Grammar, Sampler};
use super::scheduler::{Limits, Op, Row, Scheduler, SeqId};
use super::{Engine, EngineError, Event, Job, Running, SlotStatus, Status, Totals};
use crate::types::{ModelInfo, Sampling, SessionKey, SlotPermit, Token, Tokenizer};
use run::Worker;
use watchdog::Watchdog;

/// What computes. Lives on the engine thread, is made there and never leaves it.
pub trait Device {
    /// Does one piece of work on the cache.
    fn apply(&mut self, op: Op) -> Result<(), OpError>;
    /// Computes the rows.
    fn step(&mut self, rows: &[Row]) -> Result<(), String>;
    /// Draws a token after row `row` of the last step.
    fn draw(&mut self, row: usize, sampler: &mut Sampler) -> Result<Token, String>;
    /// Whether the token ends the answer.
    fn is_end(&self, token: Token) -> bool;
}

/// Makes the grammar of an answer that must follow one. Runs where the job is submitted: a large
/// grammar takes milliseconds, for which no other answer waits.
pub type Grammars = dyn Fn(&str) -> Result<Box<dyn Grammar>, EngineError> + Send + Sync;

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
    grammars: Box<Grammars>,
    no_logprobs: Option<&'static str>,
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
    Shed,
    Stop,
}

struct Submitted {
    job: Job,
    sampler: Sampler,
    permit: SlotPermit,
    events: mpsc::UnboundedSender<Event>,
    cancel: CancellationToken,
    at: Instant,
}

/// What a worker is made of.
pub struct Parts {
    pub model: ModelInfo,
    pub tokenizer: Arc<dyn Tokenizer>,
    pub grammars: Box<Grammars>,
    /// Why it cannot tell how likely a token was; `None`: it can.
    pub no_logprobs: Option<&'static str>,
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
    let totals = Totals {
        locked_bytes: parts.locked_bytes,
        ..Totals::default()
    };
    let stall_after = parts.stall_after;
    let thread = std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || {
            let _ends = Ends(&worker_shared);
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
        grammars: parts.grammars,
        no_logprobs: parts.no_logprobs,
        commands,
        shared,
        thread: Some(thread),
        watchdog,
    })
}

impl Handle {
    fn sampler(&self, job: &Job) -> Result<Sampler, EngineError> {
        let grammar = match &job.sampling.grammar {
            Some(text) => Some((self.grammars)(text)?),
            None => None,
        };
        Ok(Sampler::new(job.sampling.clone(), grammar, &job.prompt))
    }
}

impl Engine for Handle {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn tokenizer(&self) -> Arc<dyn Tokenizer> {
        Arc::clone(&self.tokenizer)
    }

    fn check(&self, how: &Sampling) -> Result<(), EngineError> {
        if let (Some(reason), Some(_)) = (self.no_logprobs, how.logprobs) {
            return Err(EngineError::Logprobs(reason));
        }
        match &how.grammar {
            Some(text) => (self.grammars)(text).map(drop),
            None => Ok(()),
        }
    }

    fn submit(&self, job: Job, permit: SlotPermit) -> Running {
        let (events, receiver) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let guard = cancel.clone().drop_guard();
        let refuse = |error| {
            let _ = events.send(Event::Failed(error));
        };
        let prompt = job.prompt.len();
        if prompt == 0 || prompt + job.max_tokens as usize > self.context {
            let context = self.context as u32;
            let error = EngineError::TooLong {
                prompt: prompt as u32,
                output: job.max_tokens,
                context,
            };
            refuse(error);
            return Running {
                events: receiver,
                cancel: guard,
            };
        }
        let at = Instant::now();
        let sampler = match self.sampler(&job) {
            Ok(sampler) => sampler,
            Err(error) => {
                drop(permit);
                refuse(error);
                return Running {
                    events: receiver,
                    cancel: guard,
                };
            }
        };
        let submitted = Box::new(Submitted {
            job,
            sampler,
            permit,
            events,
            cancel,
            at,
        });
        if let Err(refused) = self.commands.send(Command::Submit(submitted))
            && let Command::Submit(submitted) = refused.0
        {
            let _ = submitted.events.send(Event::Failed(EngineError::Stopped));
        }
        Running {
            events: receiver,
            cancel: guard,
        }
    }

    fn prepare(&self, session: &SessionKey, tokens: Arc<[Token]>) {
        let _ = self
            .commands
            .send(Command::Prepare(session.clone(), tokens));
    }

    fn forget(&self, session: &SessionKey) {
        let _ = self.commands.send(Command::Forget(session.clone()));
    }

    fn shed(&self) {
        let _ = self.commands.send(Command::Shed);
    }

    fn alive(&self) -> bool {
        let stopped = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        !stopped && self.watchdog.stall().is_none()
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
        // A step that hangs would hold up the end of the process for ever.
        while self
            .thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            if let Some(stall) = self.watchdog.stall() {
                self.watchdog.last_look();
                tracing::error!("the engine's thread is left behind: {stall}");
                return;
            }
            std::thread::sleep(BLOCKED_POLL);
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine's thread panicked");
        }
    }
}

/// Tells that the thread is over, also when it panicked: nobody waits for a step that never ends.
struct Ends<'a>(&'a Shared);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.watch.end();
        self.0.stopped();
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
            totals: Totals {
                locked_bytes: parts.locked_bytes,
                ..Totals::default()
            },
            upstreams: Vec::new(),
        };
        Self {
            status: Mutex::new(status),
            watch: watchdog::Watch::default(),
        }
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
