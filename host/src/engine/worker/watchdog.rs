//! Notices a step that never ends: the engine is not ready any more, and says what it was doing.

use std::sync::mpsc as channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::Shared;
use super::open::Open;
use crate::engine::{EngineError, Event};

/// The step that runs now.
#[derive(Default)]
pub struct Watch {
    step: Mutex<Option<Step>>,
}

/// What a step is busy with, in the order in which it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    MovingKv,
    Computing,
    Drawing,
}

/// One step: what it is doing, since when, and for whom.
pub struct Step {
    pub stage: Stage,
    pub since: Instant,
    pub rows: usize,
    /// The answers that wait for it: their slots, where each hears of its end, and their spans.
    pub answers: Vec<(usize, UnboundedSender<Event>, Open)>,
    /// They have been told that it stalled.
    pub told: bool,
}

impl Step {
    /// What it is doing, for a log.
    fn doing(&self) -> String {
        let stage = match self.stage {
            Stage::MovingKv => "moving KV for",
            Stage::Computing => "computing",
            Stage::Drawing => "drawing tokens from",
        };
        let slots: Vec<_> = self
            .answers
            .iter()
            .map(|(slot, ..)| slot.to_string())
            .collect();
        let slots = match slots.as_slice() {
            [] => "no slot".into(),
            [slot] => format!("slot {slot}"),
            slots => format!("slots {}", slots.join(", ")),
        };
        format!("{stage} a step of {} rows for {slots}", self.rows)
    }
}

impl Watch {
    pub fn begin(&self, step: Step) {
        *self.lock() = Some(step);
    }

    /// The step goes on with something else.
    pub fn enter(&self, stage: Stage) {
        if let Some(step) = &mut *self.lock() {
            step.stage = stage;
        }
    }

    /// Whether its answers were told meanwhile that it stalled.
    pub fn end(&self) -> bool {
        self.lock().take().is_some_and(|step| step.told)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Step>> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the step is doing, once it runs for longer than `limit`.
    fn stall(&self, limit: Duration) -> Option<String> {
        self.lock().as_ref().and_then(|step| stalled(step, limit))
    }

    /// The same, once for each stall; whoever waits for the step is told and waits no longer.
    fn reclaim(&self, limit: Duration) -> Option<String> {
        let mut running = self.lock();
        let step = running.as_mut().filter(|step| !step.told)?;
        let text = stalled(step, limit)?;
        step.told = true;
        let stalled = step.since.elapsed();
        for &(slot, ref events, ref open) in &step.answers {
            // A trace shows where it hangs, whether or not the step ever comes back.
            open.stalled();
            let _ = events.send(Event::Failed(EngineError::Stalled { slot, stalled }));
        }
        Some(text)
    }
}

fn stalled(step: &Step, limit: Duration) -> Option<String> {
    let taken = step.since.elapsed();
    (taken > limit).then(|| {
        format!(
            "{} has run for {} s, longer than engine.stall_after = {} s",
            step.doing(),
            taken.as_secs(),
            limit.as_secs()
        )
    })
}

/// A thread that looks at the [`Watch`], logs each stall once and takes the slots from their answers.
pub struct Watchdog {
    shared: Arc<Shared>,
    limit: Duration,
    stop: Option<channel::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    pub fn start(shared: Arc<Shared>, limit: Duration) -> std::io::Result<Self> {
        let (stop, stopped) = channel::channel::<()>();
        let watched = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("engine-watchdog".into())
            .spawn(move || {
                while stopped.recv_timeout(limit / 4) == Err(channel::RecvTimeoutError::Timeout) {
                    tell(&watched, limit);
                }
            })?;
        Ok(Self {
            shared,
            limit,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Looks at once instead of in a while: nobody will look again.
    pub fn last_look(&self) {
        tell(&self.shared, self.limit);
    }

    /// Why the engine is not ready, if a step has stalled.
    pub fn stall(&self) -> Option<String> {
        self.shared.watch.stall(self.limit)
    }
}

fn tell(shared: &Shared, limit: Duration) {
    if let Some(stall) = shared.watch.reclaim(limit) {
        tracing::error!("the engine makes no progress: {stall}");
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine's watchdog panicked");
        }
    }
}
