//! A run and what it has said so far, and those who read it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use opentelemetry::trace::SpanContext;
use tokio::sync::{Notify, watch};
use tokio_util::sync::DropGuard;
use tracing::Span;

use crate::engine::Event;
use crate::trace::spans::Held;

/// A run that several requests may share.
pub struct Flight {
    pub log: Arc<Log>,
    state: watch::Sender<State>,
    /// The leader's `chat` span, for the followers' links.
    leader: OnceLock<SpanContext>,
    /// Dropped with the last passenger: that ends what is done for them.
    hold: OnceLock<DropGuard>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is being found out who computes.
    Boarding,
    Under,
    /// Nobody could start it.
    Refused,
}

impl Flight {
    pub fn boarding() -> Self {
        Self {
            log: Arc::default(),
            state: watch::Sender::new(State::Boarding),
            leader: OnceLock::new(),
            hold: OnceLock::new(),
        }
    }

    /// It goes on until `hold` is dropped with the last passenger. `leader`: the span of the
    /// inference, where it is known.
    pub fn start(&self, hold: DropGuard, leader: Option<SpanContext>) {
        // It is started once, by whoever made it.
        let _ = self.hold.set(hold);
        if let Some(leader) = leader {
            let _ = self.leader.set(leader);
        }
        self.state.send_replace(State::Under);
    }

    pub fn refuse(&self) {
        self.state.send_if_modified(|state| {
            let boarding = *state == State::Boarding;
            if boarding {
                *state = State::Refused;
            }
            boarding
        });
    }

    pub fn is_refused(&self) -> bool {
        *self.state.borrow() == State::Refused
    }

    /// Waits until it is known; `false`: it was refused.
    pub async fn started(&self) -> bool {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| *state != State::Boarding).await;
        known.is_ok_and(|state| *state == State::Under)
    }

    /// Whose inference it is, once another host has told.
    pub fn led_by(&self, leader: SpanContext) {
        // The first word counts; a host that computes after all is another's news.
        let _ = self.leader.set(leader);
    }

    pub fn leader(&self) -> Option<&SpanContext> {
        self.leader.get()
    }
}

/// What was said, in order.
#[derive(Default)]
pub struct Log {
    said: Mutex<Said>,
    news: Notify,
}

#[derive(Default)]
struct Said {
    events: Vec<Arc<Event>>,
    /// Nobody will say any more.
    ended: bool,
}

impl Log {
    pub fn push(&self, event: Event) {
        self.locked().events.push(Arc::new(event));
        self.news.notify_waiters();
    }

    pub fn end(&self) {
        self.locked().ended = true;
        self.news.notify_waiters();
    }

    /// A slow reader may still hold a run that failed; whoever asks now is better off with a new one.
    pub fn failed(&self) -> bool {
        let said = self.locked();
        matches!(
            said.events.last().map(AsRef::as_ref),
            Some(Event::Failed(_))
        )
    }

    /// The text so far.
    pub fn text(&self) -> String {
        let said = self.locked();
        let texts = said.events.iter().filter_map(|event| match &**event {
            Event::Text { text, .. } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// The events from number `at` on, at least one; none at the end.
    pub async fn from(&self, at: usize) -> Vec<Arc<Event>> {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            // Registered before the log is looked at, so that no news is missed in between.
            news.as_mut().enable();
            {
                let said = self.locked();
                let rest = said.events.get(at..).unwrap_or_default();
                if !rest.is_empty() || said.ended {
                    return rest.to_vec();
                }
            }
            news.await;
        }
    }

    /// Event number `at`; `None` where there is none any more.
    async fn get(&self, at: usize) -> Option<Arc<Event>> {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            {
                let said = self.locked();
                match said.events.get(at) {
                    Some(event) => return Some(Arc::clone(event)),
                    None if said.ended => return None,
                    None => {}
                }
            }
            news.await;
        }
    }

    /// A poisoned lock is taken all the same: every change under it is a single push.
    fn locked(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    /// Whose request started the run.
    pub fn leading(flight: Arc<Flight>, chat: Span) -> Self {
        Self {
            flight,
            next: 0,
            wait: None,
            chat: Some(chat),
        }
    }

    pub fn following(flight: Arc<Flight>, wait: Span) -> Self {
        Self {
            flight,
            next: 0,
            wait: Some(Held::new(wait)),
            chat: None,
        }
    }

    /// Whether another request started the run.
    pub fn follows(&self) -> bool {
        self.wait.is_some()
    }

    /// A follower's span, which is to tell whom it waits for.
    pub fn wait_span(&self) -> Option<Span> {
        self.wait.as_ref().map(|wait| (**wait).clone())
    }

    /// The span that tells what was asked and answered: the run's, or the request's own where
    /// the run belongs to another.
    pub fn span_of_content(&self, own: &Span) -> Span {
        self.chat.as_ref().unwrap_or(own).clone()
    }

    /// The next event; `None` when whoever computed went away in the middle.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        let event = self.flight.log.get(self.next).await;
        self.next += usize::from(event.is_some());
        event
    }
}
