//! Token arithmetic of trimming, and what a trimmer's decision must satisfy.

use serde::{Deserialize, Serialize};

use super::fault::{Denied, RunError};
use super::types::{Facts, Layout, Trimmed};
use crate::types::Message;

/// What a decision may cost, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Budget {
    pub max_tokens: u32,
    pub low_water: u32,
    pub per_message: u32,
}

impl Budget {
    /// What the context leaves for messages; an error where even those that must stay do not fit.
    pub(super) fn new(
        facts: &Facts,
        layout: &Layout,
        low_water: u8,
        messages: &[Message],
    ) -> Result<Self, Denied> {
        let room = facts.context.saturating_sub(facts.reserved_output);
        let max_tokens = room.saturating_sub(layout.fixed);
        let low_water = u64::from(max_tokens) * u64::from(low_water) / 100;
        let low_water = u32::try_from(low_water).unwrap_or(max_tokens);
        let budget = Self {
            max_tokens,
            low_water,
            per_message: layout.per_message,
        };
        let newest = messages.len().saturating_sub(1);
        let must = messages
            .iter()
            .enumerate()
            .filter(|&(at, m)| m.pinned || at == newest);
        let needed = budget.cost(must.map(|(_, m)| m));
        if needed > max_tokens {
            let needed = needed.saturating_add(layout.fixed);
            return Err(Denied::TooLong {
                needed,
                available: room,
            });
        }
        Ok(budget)
    }

    pub(super) fn cost<'m>(&self, messages: impl Iterator<Item = &'m Message>) -> u32 {
        messages
            .map(|m| tokens(m).saturating_add(self.per_message))
            .fold(0, u32::saturating_add)
    }

    /// Accepts indices that rise, hold every pinned and the newest message, and fit.
    pub(super) fn verify(
        &self,
        messages: &[Message],
        kept: Vec<usize>,
    ) -> Result<Trimmed, RunError> {
        let newest = messages.len().saturating_sub(1);
        for (at, message) in messages.iter().enumerate() {
            let what = match at == newest {
                true => "the newest message",
                false if message.pinned => "a pinned message",
                false => continue,
            };
            if kept.binary_search(&at).is_err() {
                return Err(RunError::BadResult(format!(
                    "{what} (id {}) is not kept",
                    message.id
                )));
            }
        }
        let cost = self.cost(kept.iter().filter_map(|&at| messages.get(at)));
        if cost > self.max_tokens {
            return Err(RunError::BadResult(format!(
                "the kept messages cost {cost} tokens, the budget is {}",
                self.max_tokens
            )));
        }
        Ok(trimmed(messages, kept))
    }
}

pub(super) fn trimmed(messages: &[Message], kept: Vec<usize>) -> Trimmed {
    let first = kept
        .iter()
        .filter_map(|&at| messages.get(at))
        .find(|m| !m.pinned)
        .map(|m| m.id);
    let dropped = messages.len() - kept.len();
    Trimmed {
        kept,
        first,
        dropped,
    }
}

pub(super) fn tokens(message: &Message) -> u32 {
    u32::try_from(message.tokens.len()).unwrap_or(u32::MAX)
}
