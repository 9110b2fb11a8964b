//! What the workbench hears of calls.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::policy::types::{CallFacts, Observer};

/// The most memory that any call saw, and the fuel that they burnt.
#[derive(Default)]
pub(in crate::policy) struct Meter {
    peak: AtomicUsize,
    fuel: AtomicU64,
}

impl Meter {
    pub(in crate::policy) fn saw(&self, bytes: usize) {
        self.peak.fetch_max(bytes, Ordering::Relaxed);
    }

    /// The peak since the last time, in bytes.
    pub(in crate::policy) fn take_peak(&self) -> usize {
        self.peak.swap(0, Ordering::Relaxed)
    }

    /// The fuel of all calls since the last time.
    pub(in crate::policy) fn take_fuel(&self) -> u64 {
        self.fuel.swap(0, Ordering::Relaxed)
    }
}

impl Observer for Meter {
    fn called(&self, call: &CallFacts<'_>) {
        self.saw(call.memory_peak);
        self.fuel.fetch_add(call.fuel, Ordering::Relaxed);
    }
}
