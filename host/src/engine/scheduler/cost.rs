//! What a step costs, learnt from the steps that ran.
//!
//! The curve is far from a line. On two AVX-512 cores and an 8-layer 7B shape:
//!
//! | rows | 1 | 2 | 3 | 4 | 8 | 12 | 16 | 24 | 32 | 64 | 128 | 512 |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | ms | 39 | 56 | 73 | 86 | 190 | 239 | 216 | 363 | 418 | 782 | 1478 | 5685 |
//!
//! Sixteen rows are faster than twelve, because the matrix kernels compute so many together. So
//! a step that computes prompt tokens has a multiple of sixteen rows, and the times of just these
//! sizes are remembered, with straight lines between them.

use std::time::Duration;

/// Row counts that are remembered one by one.
const SMALL: usize = 8;
/// Rows that the matrix kernels compute together: larger steps are remembered where they are a
/// multiple of this.
pub const BLOCK: usize = 16;
/// How many of these multiples.
const BLOCKS: usize = 512 / BLOCK;
/// Weight of the newest measurement.
const NEWEST: f64 = 0.2;
/// Seconds that a row adds, as a share of a four-row step, until two sizes were measured: the
/// table's 216 ms for 16 rows and 86 ms for 4.
const ROW_SHARE: f64 = 0.14;
/// A size that was slow is never chosen, and so never measured, again: perhaps the machine was busy
/// then. After so many steps without it, it counts as unknown.
const RETRY: u64 = 512;

/// What is known of one size.
#[derive(Clone, Copy, Debug)]
struct Known {
    seconds: f64,
    /// The step in which it was measured last.
    seen: u64,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    rows: f64,
    seconds: f64,
}

/// Remembered step times; empty at first.
#[derive(Debug, Default)]
pub struct Cost {
    small: [Option<Known>; SMALL + 1],
    blocks: [Option<Known>; BLOCKS],
    steps: u64,
}

impl Cost {
    /// Takes in one measured step.
    pub fn observe(&mut self, rows: usize, took: Duration) {
        self.steps += 1;
        if self.steps.is_multiple_of(RETRY / 8) {
            self.doubt();
        }
        let (seconds, seen) = (took.as_secs_f64(), self.steps);
        // The end of a prompt may have any size; it comes once and teaches nothing.
        if let Some(old) = self.known(rows) {
            let seconds = old.map_or(seconds, |old| blend(old.seconds, seconds));
            *old = Some(Known { seconds, seen });
        }
    }

    /// Where a size is remembered.
    fn known(&mut self, rows: usize) -> Option<&mut Option<Known>> {
        match rows {
            0..=SMALL => self.small.get_mut(rows),
            _ if !rows.is_multiple_of(BLOCK) => None,
            _ => self.blocks.get_mut(rows / BLOCK - 1),
        }
    }

    /// Forgets what has not been measured for long and looks slow beside the other sizes.
    fn doubt(&mut self) {
        let sizes = (1..=SMALL).chain((1..=BLOCKS).map(|n| n * BLOCK));
        for rows in sizes {
            let steps = self.steps;
            let Some(place) = self.known(rows) else {
                continue;
            };
            let Some(old) = place.take_if(|known| steps - known.seen >= RETRY) else {
                continue;
            };
            let others = self.seconds(rows);
            if others.is_none_or(|others| old.seconds <= others)
                && let Some(place) = self.known(rows)
            {
                *place = Some(old);
            }
        }
    }

    /// Seconds that a step of `rows` will take; `None` before anything was measured.
    pub fn seconds(&self, rows: usize) -> Option<f64> {
        if let Some(Some(exact)) = self.small.get(rows) {
            return Some(exact.seconds);
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
        self.small.get(rows)?.map(|known| known.seconds)
    }

    /// Rows of a step that takes at most `budget` and computes the most prompt tokens a second,
    /// when `taken` of its rows are others'. At least a group, at most `most`.
    pub fn rows_within(&self, budget: f64, taken: usize, group: usize, most: usize) -> usize {
        let group = group.max(1);
        let small = (1..=SMALL / group).map(|n| n * group);
        let blocks = (1..=BLOCKS).map(|n| n * BLOCK);
        let speed = |rows: usize| {
            let seconds = self.seconds(rows).filter(|&seconds| seconds <= budget)?;
            Some(rows.saturating_sub(taken) as f64 / seconds.max(1e-9))
        };
        let best = small
            .chain(blocks)
            .take_while(|&rows| rows <= most)
            .filter_map(|rows| Some((rows, speed(rows)?)))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        best.map_or(group, |(rows, _)| rows)
    }

    /// Rows a second when a prompt is computed beside running answers.
    pub fn rows_per_second(&self) -> f64 {
        1.0 / self.slope().max(1e-6)
    }

    fn points(&self) -> impl Iterator<Item = Point> + '_ {
        let small = self.small.iter().enumerate();
        let blocks = self.blocks.iter().enumerate();
        let blocks = blocks.map(|(at, known)| ((at + 1) * BLOCK, known));
        small.chain(blocks).filter_map(|(rows, known)| {
            let rows = rows as f64;
            known.map(|known| Point {
                rows,
                seconds: known.seconds,
            })
        })
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
    fn the_fastest_size_within_the_budget_is_taken() {
        let mut cost = Cost::default();
        assert_eq!(cost.rows_within(0.4, 3, 4, 512), 4, "nothing is known yet");
        let measured = [
            (1, 39),
            (4, 86),
            (8, 190),
            (16, 216),
            (32, 418),
            (128, 1478),
        ];
        for (rows, took) in measured {
            cost.observe(rows, ms(took));
        }
        assert!((cost.seconds(4).unwrap() - 0.086).abs() < 1e-9);
        assert_eq!(cost.rows_within(0.280, 3, 4, 512), 16);
        assert_eq!(cost.rows_within(0.430, 3, 4, 512), 32);
        assert_eq!(
            cost.rows_within(0.430, 3, 4, 20),
            16,
            "no more than asked for"
        );
        assert_eq!(
            cost.rows_within(0.200, 3, 4, 512),
            8,
            "sixteen take too long"
        );
        assert_eq!(
            cost.rows_within(0.001, 3, 4, 512),
            4,
            "progress whatever the budget"
        );
        let between = cost.seconds(24).unwrap();
        assert!((0.216..0.418).contains(&between), "{between}");
        assert!(cost.seconds(600).unwrap() > 5.0);
        // The end of a prompt teaches nothing.
        cost.observe(24, ms(9000));
        assert_eq!(cost.seconds(24), Some(between));
    }

    #[test]
    fn before_it_was_measured_a_size_is_judged_by_the_smaller_ones() {
        let mut cost = Cost::default();
        cost.observe(4, ms(86));
        assert_eq!(cost.rows_within(0.280, 3, 4, 512), 16);
        // Eight cores: sixteen rows cost hardly more than four, so more are tried.
        cost.observe(16, ms(100));
        assert!(cost.rows_within(0.280, 3, 4, 512) > 100);
    }

    #[test]
    fn a_size_that_was_slow_once_is_tried_again() {
        let mut cost = Cost::default();
        for (rows, took) in [(3, 73), (4, 86), (16, 216), (32, 418)] {
            cost.observe(rows, ms(took));
        }
        assert_eq!(cost.rows_within(0.430, 3, 4, 32), 32);
        // Somebody else needed the machine for a moment.
        for _ in 0..20 {
            cost.observe(32, ms(3000));
            cost.observe(3, ms(500));
        }
        assert_eq!(cost.rows_within(0.430, 3, 4, 32), 16);
        for _ in 0..RETRY {
            assert!(cost.rows_within(0.430, 3, 4, 32) <= 16, "not so soon");
            cost.observe(16, ms(216));
        }
        for _ in 0..RETRY / 8 {
            cost.observe(16, ms(216));
        }
        assert_eq!(cost.rows_within(0.430, 3, 4, 32), 32, "after a while");
        cost.observe(32, ms(418));
        assert!((cost.seconds(32).unwrap() - 0.418).abs() < 1e-9);
        assert_eq!(cost.measured(4), Some(0.086), "what is fast is believed");
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
