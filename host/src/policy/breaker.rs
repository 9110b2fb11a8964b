//! Notices that a policy faults too often.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Faults of one revision within a sliding window.
#[derive(Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Default)]
struct State {
    faults: VecDeque<Instant>,
    tripped: bool,
}

impl Breaker {
    /// True exactly once: when the last `limit` faults lie within `window`. Zero never trips.
    pub(super) fn fault(&self, now: Instant, limit: u32, window: Duration) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.faults.push_back(now);
        while state.faults.len() > limit as usize
            || state
                .faults
                .front()
                .is_some_and(|&first| now.duration_since(first) > window)
        {
            state.faults.pop_front();
        }
        if limit == 0 || state.tripped || state.faults.len() < limit as usize {
            return false;
        }
        state.tripped = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_faults_within_the_window_trip_and_only_once() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        let window = Duration::from_secs(10);
        let at = |s| start + Duration::from_secs(s);
        assert!(!breaker.fault(at(0), 3, window));
        assert!(!breaker.fault(at(1), 3, window));
        // The first two have left the window.
        assert!(!breaker.fault(at(12), 3, window));
        assert!(!breaker.fault(at(13), 3, window));
        assert!(breaker.fault(at(14), 3, window));
        assert!(!breaker.fault(at(14), 3, window));
    }

    #[test]
    fn zero_switches_it_off() {
        let breaker = Breaker::default();
        assert!((0..100).all(|_| !breaker.fault(Instant::now(), 0, Duration::from_secs(1))));
    }
}
