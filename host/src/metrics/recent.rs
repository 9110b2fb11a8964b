//! The times to the first words of the last minutes, for who looks without Prometheus.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

const WINDOW: Duration = Duration::from_secs(300);
/// More than one server says in five minutes; beyond it, older ones go first.
const KEPT: usize = 4096;

/// How long people waited for the first words, in seconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FirstWords {
    pub p50: f64,
    pub p95: f64,
    /// So many answers, within so many seconds.
    pub answers: usize,
    pub window: u64,
}

#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<(Instant, Duration)>>);

impl Recent {
    pub(super) fn add(&self, ttft: Duration) {
        // A queue of pairs is whole even if another thread panicked while it held the lock.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == KEPT {
            all.pop_front();
        }
        all.push_back((Instant::now(), ttft));
    }

    /// `None` where nobody was answered lately.
    pub(super) fn first_words(&self) -> Option<FirstWords> {
        let mut times: Vec<_> = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            while all.front().is_some_and(|(at, _)| at.elapsed() > WINDOW) {
                all.pop_front();
            }
            all.iter().map(|(_, ttft)| ttft.as_secs_f64()).collect()
        };
        times.sort_by(f64::total_cmp);
        // The nearest rank: a value that was measured.
        let at = |percent: usize| times.get((times.len() * percent).div_ceil(100).checked_sub(1)?);
        Some(FirstWords {
            p50: *at(50)?,
            p95: *at(95)?,
            answers: times.len(),
            window: WINDOW.as_secs(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let recent = Recent::default();
        assert!(recent.first_words().is_none());
        recent.add(Duration::from_millis(250));
        assert_eq!(
            recent.first_words().map(|w| (w.p50, w.p95)),
            Some((0.25, 0.25))
        );
        for n in 1..=99 {
            recent.add(Duration::from_secs(n));
        }
        let words = recent.first_words().unwrap();
        assert_eq!((words.p50, words.p95, words.answers), (49.0, 94.0, 100));
        (0..2 * KEPT).for_each(|_| recent.add(Duration::from_secs(1)));
        assert_eq!(recent.first_words().map(|w| w.answers), Some(KEPT));
    }
}
