//! One run for identical questions: whoever asks what is being answered already shares that run
//! from its first word.
//!
//! Each passenger reads the run's events at its own pace and leaves on its own; the run stops
//! when the last one has left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use opentelemetry::trace::SpanContext;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::DropGuard;
use tracing::Span;

use super::turn::Turn;
use crate::cache::Key;
use crate::engine::{Event, Job, Running};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::policy::{Prompt, Trimmed};
use crate::trace::context;
use crate::trace::spans::{self, Held};
use crate::types::SlotPermit;

/// The runs that others may join.
#[derive(Default)]
pub struct Flights(Mutex<HashMap<Key, Weak<Flight>>>);

/// A run and what it has said so far.
struct Flight {
    log: Mutex<Log>,
    news: Notify,
    /// The leader's `chat` span, for the followers' links.
    leader: SpanContext,
    /// Dropped with the last passenger: that cancels the work.
    _cancel: DropGuard,
}

#[derive(Default)]
struct Log {
    events: Vec<Arc<Event>>,
    /// The engine will say no more.
    ended: bool,
}

/// One reader of a run.
pub struct Passenger {
    flight: Arc<Flight>,
    next: usize,
    /// A follower's `coalesce.wait` span.
    wait: Option<Held>,
    /// The run's `chat` span, for whoever started it.
    chat: Option<Span>,
}

impl Passenger {
    /// Whether another request started the run.
    pub fn follows(&self) -> bool {
        self.wait.is_some()
    }

    /// The span that tells what was asked and answered: the run's, or the request's own where
    /// the run belongs to another.
    pub fn span_of_content(&self, own: &Span) -> Span {
        self.chat.as_ref().unwrap_or(own).clone()
    }

    /// The next event; `None` when the engine went away in the middle.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            let news = self.flight.news.notified();
            tokio::pin!(news);
            // Registered before the log is looked at, so that no news is missed in between.
            news.as_mut().enable();
            {
                let log = locked(&self.flight.log);
                if let Some(event) = log.events.get(self.next) {
                    self.next += 1;
                    return Some(Arc::clone(event));
                }
                if log.ended {
                    return None;
                }
            }
            news.await;
        }
    }
}

/// Joins the run that answers the same prompt, or starts one.
///
/// Shared is only what is the same for sure: repeatable sampling, the same tenant, the same final
/// tokens and parameters.
///
/// # Errors
/// [`Error::Overloaded`] when a run is needed and no permit is left.
pub fn board(turn: &Turn, trimmed: &Trimmed, prompt: &Prompt) -> Result<Passenger, Error> {
    let Some(key) = turn.flight_key(prompt) else {
        return start(turn, trimmed, prompt);
    };
    let mut flights = locked(&turn.gateway.flights.0);
    if let Some(flight) = flights.get(&key).and_then(Weak::upgrade) {
        let wait = Some(Held::new(spans::coalesce_wait(
            &turn.ask.span,
            &flight.leader,
        )));
        turn.gateway.metrics.cache("exact", "coalesced");
        return Ok(Passenger {
            flight,
            next: 0,
            wait,
            chat: None,
        });
    }
    let leader = start(turn, trimmed, prompt)?;
    // Runs that ended left dead entries; this is the moment at which they are seen.
    flights.retain(|_, flight| flight.strong_count() > 0);
    flights.insert(key, Arc::downgrade(&leader.flight));
    Ok(leader)
}

fn start(turn: &Turn, trimmed: &Trimmed, prompt: &Prompt) -> Result<Passenger, Error> {
    let permit = admit(turn)?;
    let provider = turn.gateway.engine.provider();
    let model = &turn.gateway.engine.model().name;
    let span = spans::chat_by(
        provider,
        &turn.ask.span,
        model,
        &turn.sampling,
        turn.max_tokens,
    );
    spans::seed_source(&span, turn.seed_source);
    let job = Job {
        session: turn.key(),
        prompt: prompt.tokens.as_slice().into(),
        head: u32::try_from(prompt.head).unwrap_or(0),
        messages: turn.harmless(trimmed),
        sampling: turn.sampling.clone(),
        max_tokens: turn.max_tokens,
        stop: prompt
            .stop
            .iter()
            .chain(&turn.ask.params.stop)
            .cloned()
            .collect(),
        span: span.clone(),
    };
    let Running { events, cancel } = turn.gateway.engine.submit(job, permit);
    let flight = Flight {
        log: Mutex::default(),
        news: Notify::new(),
        leader: context(&span),
        _cancel: cancel,
    };
    let flight = Arc::new(flight);
    let metrics = Arc::clone(&turn.gateway.metrics);
    turn.gateway.answers.spawn(forward(
        events,
        Arc::downgrade(&flight),
        Held::new(span.clone()),
        metrics,
    ));
    Ok(Passenger {
        flight,
        next: 0,
        wait: None,
        chat: Some(span),
    })
}

fn admit(turn: &Turn) -> Result<SlotPermit, Error> {
    let admission = &turn.gateway.admission;
    let depth = admission.taken();
    let span = spans::admission(&turn.ask.span, depth);
    match admission.enter() {
        Ok(permit) => {
            spans::position(&span, admission.place(depth));
            Ok(permit)
        }
        Err(error) => {
            spans::failed(&span, error.class().2);
            Err(error)
        }
    }
}

/// Writes the run's events into its log, for as long as anybody reads it, and the run's end onto
/// its span: the leader may have left long before.
async fn forward(
    mut events: UnboundedReceiver<Event>,
    flight: Weak<Flight>,
    chat: Held,
    metrics: Arc<Metrics>,
) {
    let mut chat = Some(chat);
    loop {
        let event = events.recv().await;
        // The span ends before the run's last event is seen: a trace is whole when its answer is.
        if matches!(event, Some(Event::Finished(_) | Event::Failed(_)) | None)
            && let Some(chat) = chat.take()
        {
            end(&chat, event.as_ref(), &metrics);
        } else if let (Some(Event::Started { slot, .. }), Some(chat)) = (&event, &chat) {
            spans::slot(chat, *slot);
        }
        // Nobody reads any more; the engine's last word is still waited for.
        let Some(flight) = flight.upgrade() else {
            if event.is_none() {
                return;
            }
            continue;
        };
        let mut log = locked(&flight.log);
        match event {
            Some(event) => log.events.push(Arc::new(event)),
            None => log.ended = true,
        }
        let ended = log.ended;
        drop(log);
        flight.news.notify_waiters();
        if ended {
            return;
        }
    }
}

fn end(chat: &Held, last: Option<&Event>, metrics: &Metrics) {
    let Some(Event::Finished(o)) = last else {
        return spans::failed(chat, "engine");
    };
    let (prompt, cached, output) = (o.prompt_tokens, o.cached_tokens, o.output_tokens);
    spans::chat_done(chat, o.finish, prompt, cached, output);
    metrics.run_finished(o.queued, prompt, cached, output);
}

/// A poisoned lock is taken all the same: every change under it is a single push or insert.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
