//! One run for identical questions: whoever asks what is being answered already shares that run
//! from its first word, on this host or, where hosts share a server, on another.
//!
//! Each passenger reads the run's events at its own pace and leaves on its own; the run stops
//! when the last one has left.

mod flight;
mod follow;
mod lead;
mod seam;
mod start;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio_util::sync::CancellationToken;

use super::turn::Turn;
use crate::cache::Key;
use crate::error::Error;
use crate::policy::{Prompt, Trimmed};
use crate::relay::{Boarding, Lease, Reader, Relay};
use crate::trace::{context, spans};
use flight::Flight;
pub use flight::Passenger;
use follow::{Followed, Own};
use lead::Led;
use seam::Seam;

/// The runs that others may join.
pub struct Flights {
    here: Mutex<HashMap<Key, Weak<Flight>>>,
    /// The way to those of other hosts.
    relay: Option<Relay>,
}

/// Where a question meets the run that answers it.
enum Gate {
    /// It is under way, or somebody finds out who computes.
    Join(Arc<Flight>),
    /// Nobody computes here: the question's own run.
    Open(Takeoff),
}

/// A run that is not started yet. Dropped before it is, it is refused.
struct Takeoff(Arc<Flight>);

impl Drop for Takeoff {
    fn drop(&mut self) {
        self.0.refuse();
    }
}

impl Flights {
    pub fn new(relay: Option<Relay>) -> Self {
        Self {
            here: Mutex::default(),
            relay,
        }
    }

    fn gate(&self, key: Key) -> Gate {
        let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        let known = here.get(&key).and_then(Weak::upgrade);
        if let Some(flight) = known.filter(|flight| !flight.is_refused() && !flight.log.failed()) {
            return Gate::Join(flight);
        }
        let flight = Arc::new(Flight::boarding());
        // Runs that ended left dead entries; this is the moment at which they are seen.
        here.retain(|_, flight| flight.strong_count() > 0);
        here.insert(key, Arc::downgrade(&flight));
        Gate::Open(Takeoff(flight))
    }
}

/// Joins the run that answers the same prompt, or starts one.
///
/// Shared is only what is the same for sure: repeatable sampling, the same tenant, the same final
/// tokens and parameters.
///
/// # Errors
/// [`Error::Overloaded`] when a run is needed and no permit is left.
pub async fn board(turn: &Turn, trimmed: &Trimmed, prompt: &Prompt) -> Result<Passenger, Error> {
    let asked = (trimmed, prompt);
    let Some(key) = turn.flight_key(prompt) else {
        return Takeoff(Arc::new(Flight::boarding())).alone(turn, asked, None);
    };
    loop {
        match turn.gateway.flights.gate(key) {
            Gate::Open(takeoff) => return takeoff.start(turn, asked, &key).await,
            Gate::Join(flight) => {
                if flight.started().await {
                    return Ok(join(turn, flight));
                }
            }
        }
    }
}

fn join(turn: &Turn, flight: Arc<Flight>) -> Passenger {
    let wait = spans::coalesce_wait(&turn.ask.span, flight.leader());
    turn.gateway.metrics.cache("exact", "coalesced");
    Passenger::following(flight, wait)
}

impl Takeoff {
    async fn start(
        self,
        turn: &Turn,
        asked: (&Trimmed, &Prompt),
        key: &Key,
    ) -> Result<Passenger, Error> {
        // A request waits for a server in trouble once.
        let relay = turn.gateway.flights.relay.as_ref();
        let Some(relay) = relay.filter(|_| !turn.store_failed()) else {
            return self.alone(turn, asked, None);
        };
        let boarding = relay.board(key.as_bytes()).await;
        turn.gateway.metrics.shared(
            "board",
            match &boarding {
                Ok(Boarding::Lead(_)) => "lead",
                Ok(Boarding::Follow(_)) => "follow",
                Err(failure) => failure,
            },
        );
        match boarding {
            Ok(Boarding::Lead(lease)) => self.alone(turn, asked, Some(lease)),
            Ok(Boarding::Follow(reader)) => Ok(self.follow(turn, asked, reader)),
            Err(failure) => {
                spans::store_failure(&turn.ask.span, failure);
                self.alone(turn, asked, None)
            }
        }
    }

    /// Computes here; with a lease for other hosts too.
    fn alone(
        self,
        turn: &Turn,
        (trimmed, prompt): (&Trimmed, &Prompt),
        lease: Option<Lease>,
    ) -> Result<Passenger, Error> {
        let gateway = &turn.gateway;
        let permit = start::admit(&gateway.admission, &turn.ask.span)?;
        let job = start::job(turn, trimmed, prompt);
        let told = (&turn.ask.span, turn.seed_source);
        let log = &self.0.log;
        let launched = start::launch(gateway, told, (job, permit), log, Seam::default());
        let leader = context(&launched.chat);
        let hold = match lease {
            None => launched.cancel,
            Some(lease) => {
                let left = CancellationToken::new();
                let led = Led {
                    lease,
                    log: Arc::clone(log),
                    chat: leader.clone(),
                    left: left.clone(),
                    cancel: launched.cancel,
                    metrics: Arc::clone(&gateway.metrics),
                };
                gateway.answers.spawn(led.fly());
                left.drop_guard()
            }
        };
        self.0.start(hold, Some(leader));
        Ok(Passenger::leading(Arc::clone(&self.0), launched.chat))
    }

    /// Another host computes.
    fn follow(
        self,
        turn: &Turn,
        (trimmed, prompt): (&Trimmed, &Prompt),
        reader: Reader,
    ) -> Passenger {
        let passenger = join(turn, Arc::clone(&self.0));
        let left = CancellationToken::new();
        let followed = Followed {
            gateway: Arc::clone(&turn.gateway),
            reader,
            log: Arc::clone(&self.0.log),
            flight: Arc::downgrade(&self.0),
            left: left.clone(),
            wait: passenger.wait_span(),
            own: Own {
                job: start::job(turn, trimmed, prompt),
                parent: turn.ask.span.clone(),
                seed_source: turn.seed_source,
            },
        };
        turn.gateway.answers.spawn(followed.fly());
        self.0.start(left.drop_guard(), None);
        passenger
    }
}
