//! Fills a step with rows: answers first, then prompts.

use super::Scheduler;
use super::cost::{BLOCK, Cost};
use super::lookup;
use super::plan::{Feeder, Plan, Row, Sample, SeqId, Time};
use super::slot::Slot;
use crate::types::Token;

/// The step budget "auto", in steps of four rows: room for sixteen rows also behind a long
/// context, where attention makes them a third slower.
const BUDGET: f64 = 4.0;

impl Scheduler {
    pub(super) fn decodes(&mut self, plan: &mut Plan) {
        let running = self
            .slots
            .iter()
            .filter(|s| matches!(s, Slot::Decode { .. }))
            .count();
        let prompts = self.slots.iter().any(|s| matches!(s, Slot::Prefill(_)));
        let guess = self.limits.speculation && running <= 2 && !prompts;
        let (kv, cost) = (&self.kv, &self.cost);
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Slot::Decode {
                work,
                next,
                drawn,
                lookup,
            } = slot
            else {
                continue;
            };
            let begin = plan.rows.len();
            let context = kv.tokens(work.seq);
            let pos = context.len();
            let mut tokens = vec![*next];
            if guess {
                let most = lookup::MOST.min(work.max_tokens - *drawn - 1);
                let mut guessed = lookup::guess(context, *next, most);
                if !guessed.is_empty() {
                    let lengths = guesses(cost, running, guessed.len(), self.limits.max_rows);
                    guessed.truncate(lookup.length(lengths));
                    tokens.extend(guessed);
                }
            }
            let rows = tokens.into_iter().enumerate().map(|(i, token)| Row {
                seq: work.seq,
                pos: (pos + i) as u32,
                token,
                logits: true,
            });
            plan.rows.extend(rows);
            plan.samples.push(Sample {
                slot: at,
                rows: begin..plan.rows.len(),
            });
        }
    }

    pub(super) fn prefills(&mut self, plan: &mut Plan, now: Time) {
        let mut order: Vec<_> = (0..self.slots.len())
            .filter_map(|at| match &self.slots[at] {
                Slot::Prefill(work) => Some((self.work_score(work, now), at)),
                _ => None,
            })
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let beside = !plan.rows.is_empty();
        for (_, at) in order {
            let Slot::Prefill(work) = &self.slots[at] else {
                continue;
            };
            let done = self.kv.tokens(work.seq).len();
            let left = &work.prompt[done..];
            let chunk = self.chunk(plan.rows.len(), left.len(), beside);
            if chunk == 0 {
                break;
            }
            let begin = plan.rows.len();
            feed(plan, work.seq, done, &left[..chunk]);
            if chunk == left.len() {
                let last = plan.rows.len() - 1;
                plan.rows[last].logits = true;
                plan.samples.push(Sample {
                    slot: at,
                    rows: last..last + 1,
                });
            }
            plan.prefills
                .push((Feeder::Slot(at), begin..plan.rows.len()));
            // One prompt at a time; only the rest of a budget goes to the next one.
            if !beside {
                break;
            }
        }
    }

    /// Prompt tokens for this step, with `rows` in it already.
    pub(super) fn chunk(&self, rows: usize, left: usize, beside: bool) -> usize {
        let group = self.limits.group;
        let most = self.limits.max_rows.saturating_sub(rows + group);
        if !beside {
            return left.min(self.limits.max_chunk).min(most);
        }
        let enough = rows + self.limits.max_chunk;
        let total = self.cost.rows_within(self.budget(), rows, group, enough);
        // Where this step has no prompt tokens yet: a full group at least, and if nobody chose the
        // budget, what the kernels compute together. Smaller steps answer a little more smoothly,
        // but prompts then fall behind the answers beside them, and never catch up again.
        let floor = match self.limits.budget {
            _ if rows > self.limits.slots => 0,
            Some(_) => group.max(rows + group) / group * group,
            None => (rows + group).next_multiple_of(BLOCK),
        };
        let chunk = total.max(floor).saturating_sub(rows);
        chunk.min(left).min(most)
    }

    fn budget(&self) -> f64 {
        match self.limits.budget {
            Some(budget) => budget.as_secs_f64(),
            None => BUDGET * self.cost.seconds(self.limits.group).unwrap_or_default(),
        }
    }

    /// Three rows can cost more than four: adds the row that completes a group when it pays.
    pub(super) fn pad(&mut self, plan: &mut Plan) {
        let (rows, group) = (plan.rows.len(), self.limits.group);
        if group < 2 || rows == 0 || rows % group != group - 1 {
            return;
        }
        // Both ways are tried once; large steps always gain.
        let pays = match (self.cost.measured(rows), self.cost.measured(rows + 1)) {
            (Some(without), Some(with)) => with <= without,
            (None, Some(_)) if rows < group => false,
            _ => true,
        };
        if pays {
            plan.rows.push(Row {
                seq: self.pad_sequence(),
                pos: 0,
                token: 0,
                logits: false,
            });
        }
    }
}

pub(super) fn feed(plan: &mut Plan, seq: SeqId, from: usize, tokens: &[Token]) {
    let rows = tokens.iter().enumerate().map(|(i, &token)| Row {
        seq,
        pos: (from + i) as u32,
        token,
        logits: false,
    });
    plan.rows.extend(rows);
}

/// How many tokens each of `running` answers may guess so that the step has a size of at most `rows`
/// that the kernels like, and the time of that step over one without guesses. Sizes that were never measured count
/// as their neighbours say, so that they are tried.
fn guesses(
    cost: &Cost,
    running: usize,
    most: usize,
    rows: usize,
) -> impl Iterator<Item = (usize, f64)> {
    let without = cost.seconds(running);
    let sizes = [4, 8, BLOCK].into_iter().filter(move |&size| size <= rows);
    sizes.filter_map(move |rows| {
        let length = (rows / running).checked_sub(1)?;
        let ratio = match (without, cost.seconds(rows)) {
            (Some(without), Some(with)) => with / without,
            _ => 1.0,
        };
        (1..=most).contains(&length).then_some((length, ratio))
    })
}
