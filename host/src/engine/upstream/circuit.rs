//! A circuit breaker: an upstream that fails again and again is left alone, then tried with one
//! request. Pure: time comes in.

use std::time::{Duration, Instant};

/// Longest time for which an upstream is left alone.
const MOST: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
        wait: Duration,
    },
    /// One request is on its way and decides.
    Trial {
        wait: Duration,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct Circuit {
    state: State,
    most_failures: u32,
    cooldown: Duration,
}

impl Circuit {
    pub fn new(most_failures: u32, cooldown: Duration) -> Self {
        Self {
            state: State::Closed { failures: 0 },
            most_failures: most_failures.max(1),
            cooldown,
        }
    }

    /// Whether a request may be sent now.
    pub fn allows(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until, .. } => now >= until,
            State::Trial { .. } => false,
        }
    }

    /// A request is sent.
    pub fn begin(&mut self) {
        if let State::Open { wait, .. } = self.state {
            self.state = State::Trial { wait };
        }
    }

    pub fn succeeded(&mut self) {
        self.state = State::Closed { failures: 0 };
    }

    pub fn failed(&mut self, now: Instant) {
        self.state = match self.state {
            State::Closed { failures } if failures + 1 < self.most_failures => State::Closed {
                failures: failures + 1,
            },
            State::Closed { .. } => open(now, self.cooldown),
            State::Trial { wait } => open(now, wait.saturating_mul(2).min(MOST)),
            // Failed after others had opened it.
            open @ State::Open { .. } => open,
        };
    }

    /// The request ended without telling anything about the upstream: its client left.
    pub fn undecided(&mut self, now: Instant) {
        if let State::Trial { wait } = self.state {
            self.state = State::Open { until: now, wait };
        }
    }

    pub fn name(&self) -> &'static str {
        match self.state {
            State::Closed { .. } => "closed",
            State::Open { .. } => "open",
            State::Trial { .. } => "trial",
        }
    }
}

fn open(now: Instant, wait: Duration) -> State {
    State::Open {
        until: now + wait,
        wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_one_success() {
        let now = Instant::now();
        let mut circuit = Circuit::new(2, SECOND);
        circuit.failed(now);
        circuit.succeeded();
        circuit.failed(now);
        assert!(circuit.allows(now), "not in a row");
        circuit.failed(now);
        assert!(!circuit.allows(now));
        assert!(circuit.allows(now + SECOND));
        circuit.begin();
        assert!(!circuit.allows(now + SECOND), "one request tries it");
        circuit.succeeded();
        assert!(circuit.allows(now));
    }

    #[test]
    fn each_failed_trial_doubles_the_wait() {
        let now = Instant::now();
        let mut circuit = Circuit::new(1, SECOND);
        circuit.failed(now);
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            circuit.begin();
            circuit.failed(now);
            let wait = SECOND * expected;
            assert!(!circuit.allows(now + wait - Duration::from_millis(1)));
            assert!(circuit.allows(now + wait));
        }
    }

    #[test]
    fn a_trial_whose_client_left_is_made_again() {
        let now = Instant::now();
        let mut circuit = Circuit::new(1, SECOND);
        circuit.failed(now);
        circuit.begin();
        circuit.undecided(now);
        assert!(circuit.allows(now));
    }
}
