//! Notices a step that never ends: the engine is not ready any more, and says what it was doing.

use std::sync::mpsc as channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Shared;
use crate::engine::scheduler::Plan;

/// The step that runs now.
#[derive(Default)]
pub struct Watch {
    step: Mutex<Option<Step>>,
}

#[derive(Clone, Copy)]
struct Step {
    since: Instant,
    rows: usize,
    answers: usize,
}

impl Watch {
    pub fn begin(&self, plan: &Plan) {
        let step = Step {
            since: Instant::now(),
            rows: plan.rows.len(),
            answers: plan.samples.len(),
        };
        *self.lock() = Some(step);
    }

    pub fn end(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Step>> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the step is doing, once it runs for longer than `limit`.
    fn stall(&self, limit: Duration) -> Option<(Instant, String)> {
        let step = (*self.lock())?;
        let taken = step.since.elapsed();
        (taken > limit).then(|| {
            let text = format!(
                "a step of {} rows for {} answers has run for {} s, longer than engine.stall_after = {} s",
                step.rows,
                step.answers,
                taken.as_secs(),
                limit.as_secs()
            );
            (step.since, text)
        })
    }
}

/// A thread that looks at the [`Watch`] and logs each stall once.
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
                let mut logged = None;
                while stopped.recv_timeout(limit / 4) == Err(channel::RecvTimeoutError::Timeout) {
                    if let Some((since, stall)) = watched.watch.stall(limit)
                        && logged != Some(since)
                    {
                        logged = Some(since);
                        tracing::error!("the engine makes no progress: {stall}");
                    }
                }
            })?;
        Ok(Self {
            shared,
            limit,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Why the engine is not ready, if a step has stalled.
    pub fn stall(&self) -> Option<String> {
        self.shared.watch.stall(self.limit).map(|(_, text)| text)
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
