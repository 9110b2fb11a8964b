//! Keeps a policy that fails at every request from filling the log.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One line for each kind of fault in this time; metrics count every fault.
const QUIET: Duration = Duration::from_secs(10);

/// Which faults of one revision were told, and when.
#[derive(Default)]
pub(super) struct Told(Mutex<BTreeMap<&'static str, Last>>);

struct Last {
    at: Instant,
    unsaid: u64,
}

impl Told {
    /// How many of this kind went unsaid since the last line, where this one is to be told.
    pub(super) fn fault(&self, now: Instant, kind: &'static str) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kinds.get_mut(kind) {
            Some(last) if now.duration_since(last.at) < QUIET => {
                last.unsaid += 1;
                None
            }
            known => {
                let unsaid = known.map_or(0, |last| last.unsaid);
                kinds.insert(kind, Last { at: now, unsaid: 0 });
                Some(unsaid)
            }
        }
    }
}

/// Bounds the lines that all instances of one policy write together: each has its own allowance, and
/// there is an instance for each request.
#[derive(Default)]
pub(super) struct Lines(Mutex<Window>);

#[derive(Default)]
struct Window {
    since: Option<Instant>,
    lines: u32,
    unsaid: u64,
}

impl Lines {
    /// How many lines went unsaid in the window before, where one more than `most` were not yet told
    /// in this one.
    pub(super) fn one(&self, now: Instant, most: u32) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |since| now.duration_since(since) < QUIET;
        if window.since.is_some_and(goes_on) {
            if window.lines >= most {
                window.unsaid += 1;
                return None;
            }
            window.lines += 1;
            return Some(0);
        }
        let unsaid = window.unsaid;
        *window = Window {
            since: Some(now),
            lines: 1,
            unsaid: 0,
        };
        Some(unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_in_each_window_and_those_left_out_are_counted() {
        let (lines, start) = (Lines::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(lines.one(at(0), 2), Some(0));
        assert_eq!(lines.one(at(1), 2), Some(0));
        assert_eq!(lines.one(at(2), 2), None);
        assert_eq!(lines.one(at(9), 2), None);
        assert_eq!(lines.one(at(10), 2), Some(2));
        assert_eq!(lines.one(at(11), 2), Some(0));
        assert_eq!(lines.one(at(12), 2), None);
    }

    #[test]
    fn each_kind_is_told_once_in_a_while_with_what_was_not() {
        let (told, start) = (Told::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(told.fault(at(0), "trap"), Some(0));
        assert_eq!(told.fault(at(1), "trap"), None);
        assert_eq!(told.fault(at(2), "memory"), Some(0));
        assert_eq!(told.fault(at(9), "trap"), None);
        assert_eq!(told.fault(at(10), "trap"), Some(2));
        assert_eq!(told.fault(at(11), "trap"), None);
        assert_eq!(told.fault(at(12), "memory"), Some(0));
    }
}
