//! What the loop tells the watchdog, and how slots are taken from answers that make no progress.

use std::time::{Duration, Instant};

use super::run::Worker;
use super::watchdog::{Stage, Step};
use crate::engine::EngineError;
use crate::engine::scheduler::Plan;

impl Worker<'_> {
    /// The step begins: whoever waits for it is known from here on.
    pub fn watch(&self, plan: &Plan) {
        let answers = plan.slots().into_iter().filter_map(|slot| {
            let active = self.active.values().find(|a| a.slot() == Some(slot))?;
            Some((slot, active.events(), active.spans()))
        });
        self.shared.watch.begin(Step {
            stage: Stage::MovingKv,
            since: Instant::now(),
            rows: plan.rows.len(),
            answers: answers.collect(),
            told: false,
        });
    }

    /// The step came back after all, but too late: its slots are taken from their answers, which
    /// the watchdog may have `told` already.
    pub fn reclaim(&mut self, slots: &[usize], stalled: Duration, told: bool) {
        let now = self.now();
        for &slot in slots {
            let found = self
                .active
                .iter()
                .find(|(_, active)| active.slot() == Some(slot))
                .map(|(id, _)| *id);
            let Some(id) = found else { continue };
            self.scheduler.cancel(id, now);
            let Some(active) = self.active.remove(&id) else {
                continue;
            };
            match told {
                true => active.abandon(),
                false => {
                    active.spans().stalled();
                    active.fail(EngineError::Stalled { slot, stalled });
                }
            }
        }
    }
}
