//! What the policies that serve now cost, since the last change of their hook. The histograms of
//! the metrics outlive a policy and know buckets; an operator who has just swapped one asks about
//! that one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

/// Calls of which the percentiles are taken.
const CALLS: usize = 512;

/// Two entries a hook at most: the policy that serves, and its shadow.
#[derive(Debug, Default)]
pub struct Costs(Mutex<HashMap<(&'static str, bool), Calls>>);

#[derive(Debug, Default)]
struct Calls {
    calls: u64,
    faults: u64,
    took: VecDeque<Duration>,
}

/// What one policy's calls cost since it began to serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    pub calls: u64,
    pub faults: u64,
    /// Microseconds, of the last 512 calls; `None` before the first.
    pub p50_us: Option<u64>,
    pub p99_us: Option<u64>,
}

impl Costs {
    /// `live`: the policy that serves, not its shadow.
    pub fn called(&self, hook: &'static str, live: bool, took: Duration) {
        self.with(hook, live, |calls| {
            calls.calls += 1;
            if calls.took.len() == CALLS {
                calls.took.pop_front();
            }
            calls.took.push_back(took);
        });
    }

    /// A policy that serves failed.
    pub fn faulted(&self, hook: &'static str) {
        self.with(hook, true, |calls| calls.faults += 1);
    }

    /// Another policy serves the hook, or the same one with another config.
    pub fn changed(&self, hook: &'static str) {
        for live in [true, false] {
            self.with(hook, live, |calls| *calls = Calls::default());
        }
    }

    pub fn cost(&self, hook: &'static str, live: bool) -> Cost {
        self.with(hook, live, |calls| calls.cost())
    }

    fn with<T>(&self, hook: &'static str, live: bool, act: impl FnOnce(&mut Calls) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(all.entry((hook, live)).or_default())
    }
}

impl Calls {
    fn cost(&self) -> Cost {
        let mut sorted: Vec<_> = self.took.iter().collect();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let last = sorted.len().checked_sub(1)?;
            let took = sorted.get(
                (sorted.len() * percent)
                    .div_ceil(100)
                    .saturating_sub(1)
                    .min(last),
            );
            took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
        };
        Cost {
            calls: self.calls,
            faults: self.faults,
            p50_us: at(50),
            p99_us: at(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_last_calls_and_a_change_begins_anew() {
        let costs = Costs::default();
        assert_eq!(costs.cost("trim", true), Cost::default());
        for us in 1..=1000 {
            costs.called("trim", true, Duration::from_micros(us));
        }
        costs.faulted("trim");
        let cost = costs.cost("trim", true);
        // The last 512 of them took 489 to 1000 us.
        let expected = Cost {
            calls: 1000,
            faults: 1,
            p50_us: Some(744),
            p99_us: Some(995),
        };
        assert_eq!(cost, expected);
        assert_eq!(costs.cost("trim", false), Cost::default());
        costs.changed("trim");
        assert_eq!(costs.cost("trim", true), Cost::default());
    }
}
