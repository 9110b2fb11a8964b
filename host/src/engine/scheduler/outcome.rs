//! Takes in what a step brought.

use super::Scheduler;
use super::lookup::Lookup;
use super::plan::{Drawn, Feeder, Op, Row, Sample, Time};
use super::slot::Slot;
use crate::types::Token;

impl Scheduler {
    pub(super) fn fed(&mut self, feeder: Feeder, rows: &[Row], now: Time) {
        let tokens: Vec<Token> = rows.iter().map(|row| row.token).collect();
        match feeder {
            Feeder::Slot(at) => {
                let Slot::Prefill(work) = &self.slots[at] else {
                    return;
                };
                self.counts.prefilled += tokens.len() as u64;
                self.kv.extend(work.seq, &tokens);
                if self.kv.tokens(work.seq).len() >= work.head {
                    self.kv.make_head(work.seq, work.head, now);
                }
            }
            Feeder::Ahead => {
                let Some(ahead) = self.ahead.front() else {
                    return;
                };
                let Some(seq) = ahead.seq else { return };
                self.counts.prepared += tokens.len() as u64;
                self.kv.extend(seq, &tokens);
                if self.kv.tokens(seq).len() >= ahead.tokens.len() {
                    let session = ahead.session.clone();
                    self.ahead.pop_front();
                    self.kv.release(seq, Some(session), now);
                }
            }
        }
    }

    pub(super) fn drew(&mut self, sample: &Sample, rows: &[Row], drawn: &Drawn, now: Time) {
        let Some(&last) = drawn.tokens.last() else {
            return;
        };
        match &mut self.slots[sample.slot] {
            Slot::Idle => return,
            slot @ Slot::Prefill(_) => {
                let Slot::Prefill(work) = std::mem::replace(slot, Slot::Idle) else {
                    return;
                };
                *slot = Slot::Decode {
                    work,
                    next: last,
                    drawn: 1,
                    lookup: Lookup::default(),
                };
            }
            Slot::Decode {
                work,
                next,
                drawn: count,
                lookup,
            } => {
                let right = drawn.tokens.len() - 1;
                if rows.len() > 1 {
                    lookup.record(rows.len() - 1, right);
                    self.counts.drafted += rows.len() as u64 - 1;
                    self.counts.draft_hits += right as u64;
                }
                let computed: Vec<Token> = rows[..=right].iter().map(|row| row.token).collect();
                self.kv.extend(work.seq, &computed);
                if rows.len() > right + 1 {
                    let from = rows[right + 1].pos;
                    self.kv.push(Op::Remove {
                        seq: work.seq,
                        from,
                    });
                }
                *next = last;
                *count += drawn.tokens.len();
            }
        }
        let full = match &self.slots[sample.slot] {
            Slot::Decode { work, drawn, .. } => *drawn >= work.max_tokens,
            Slot::Idle | Slot::Prefill(_) => false,
        };
        if drawn.end || full {
            self.release(sample.slot, now);
        }
    }

    pub(super) fn release(&mut self, slot: usize, now: Time) {
        match std::mem::replace(&mut self.slots[slot], Slot::Idle) {
            Slot::Idle => {}
            Slot::Prefill(work) | Slot::Decode { work, .. } => {
                self.kv.release(work.seq, work.session, now);
            }
        }
    }
}
