//! What a step costs, learnt from the steps that ran.
//!
//! The curve is far from a line: up to the kernels' group size (four rows) a step with more rows
//! can be faster than one with fewer, beyond it every row costs about the same. So small steps are
//! remembered one by one and larger ones by buckets, with straight lines between them.

use std::time::Duration;

/// Row counts that are remembered one by one.
const SMALL: usize = 8;
/// Upper ends of the buckets beyond.
const BUCKETS: [usize; 7] = [16, 24, 32, 64, 128, 256, 512];
/// Weight of the newest measurement.
const NEWEST: f64 = 0.2;
/// Seconds that a row adds, as a share of a four-row step, until two sizes were measured. Taken
/// from a 7B shape on two AVX-512 cores: 109 ms for 4 rows, 462 ms for 27.
const ROW_SHARE: f64 = 0.14;

#[derive(Clone, Copy, Debug)]
struct Point {
    rows: f64,
    seconds: f64,
}

/// Remembered step times; empty at first.
#[derive(Debug, Default)]
pub struct Cost {
    small: [Option<f64>; SMALL + 1],
    large: [Option<Point>; BUCKETS.len()],
}

impl Cost {
    /// Takes in one measured step.
    pub fn observe(&mut self, rows: usize, took: Duration) {
        let seconds = took.as_secs_f64();
        if rows <= SMALL {
            let old = &mut self.small[rows];
            *old = Some(old.map_or(seconds, |old| blend(old, seconds)));
            return;
        }
        let bucket = BUCKETS
            .iter()
            .position(|&end| rows <= end)
            .unwrap_or(BUCKETS.len() - 1);
        let rows = rows as f64;
        let old = &mut self.large[bucket];
        *old = Some(match *old {
            None => Point { rows, seconds },
            Some(p) => Point {
                rows: blend(p.rows, rows),
                seconds: blend(p.seconds, seconds),
            },
        });
    }

    /// Seconds that a step of `rows` will take; `None` before anything was measured.
    pub fn seconds(&self, rows: usize) -> Option<f64> {
        if let Some(Some(exact)) = self.small.get(rows) {
            return Some(*exact);
        }
        let at = rows as f64;
        let below = self.points().filter(|p| p.rows <= at).last();
        let above = self.points().find(|p| p.rows > at);
        match (below, above) {
            (None, None) => None,
            // Fewer rows never cost more than a full group, whatever else is unknown.
            (None, Some(above)) => Some(above.seconds),
            (Some(below), None) => Some(below.seconds + self.slope() * (at - below.rows)),
            (Some(below), Some(above)) => {
                let share = (at - below.rows) / (above.rows - below.rows);
                Some(below.seconds + share * (above.seconds - below.seconds))
            }
        }
    }

    /// The seconds that rows take one by one: measured if that many were.
    pub fn measured(&self, rows: usize) -> Option<f64> {
        self.small.get(rows).copied().flatten()
    }

    /// Most rows (a multiple of `group`) that stay within `budget`; at least one group.
    pub fn rows_within(&self, budget: f64, group: usize, most: usize) -> usize {
        let group = group.max(1);
        let mut rows = group;
        while rows + group <= most {
            match self.seconds(rows + group) {
                Some(seconds) if seconds <= budget => rows += group,
                _ => break,
            }
        }
        rows
    }

    /// Rows a second when a prompt is computed beside running answers.
    pub fn rows_per_second(&self) -> f64 {
        1.0 / self.slope().max(1e-6)
    }

    fn points(&self) -> impl Iterator<Item = Point> + '_ {
        let small = self.small.iter().enumerate().filter_map(|(rows, seconds)| {
            seconds.map(|seconds| Point {
                rows: rows as f64,
                seconds,
            })
        });
        small.chain(self.large.iter().flatten().copied())
    }

    /// Seconds that one more row adds to a large step.
    fn slope(&self) -> f64 {
        let Some(first) = self.points().next() else {
            return 0.01;
        };
        let prior = first.seconds * ROW_SHARE;
        let Some(last) = self.points().last() else {
            return prior;
        };
        if last.rows - first.rows < SMALL as f64 {
            return prior;
        }
        ((last.seconds - first.seconds) / (last.rows - first.rows)).max(prior / 8.0)
    }
}

fn blend(old: f64, new: f64) -> f64 {
    old + NEWEST * (new - old)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_measured_curve_is_followed() {
        let mut cost = Cost::default();
        assert_eq!(cost.rows_within(0.4, 4, 512), 4, "nothing is known yet");
        for (rows, took) in [(1, 66), (4, 109), (27, 462), (131, 1811)] {
            cost.observe(rows, ms(took));
        }
        assert!((cost.seconds(4).unwrap() - 0.109).abs() < 1e-9);
        let rows = cost.rows_within(0.436, 4, 512);
        assert!((20..=28).contains(&rows), "{rows} rows within 436 ms");
        assert_eq!(
            cost.rows_within(0.001, 4, 512),
            4,
            "progress whatever the budget"
        );
        assert!(cost.seconds(600).unwrap() > 1.8);
    }

    #[test]
    fn three_rows_may_cost_more_than_four() {
        let mut cost = Cost::default();
        cost.observe(3, ms(137));
        cost.observe(4, ms(109));
        assert!(cost.measured(3) > cost.measured(4));
        assert_eq!(cost.measured(2), None);
    }
}
