//! Keeps the last exchanges of a session within a token budget. It cuts where it cut before for
//! as long as that is allowed: the prompt's beginning stays the same then, and what the engine
//! has already computed for it can be used again.

use kit::{Configured, Settings};

wit_bindgen::generate!({ path: "../../wit", world: "trim", additional_derives: [PartialEq] });

use exports::stent::policy::session_trimmer::{Budget, Decision, Guest as SessionTrimmer};
use stent::policy::request::{Message, Request, Transcript};

kit::policy! { config: Limits, summary: "Keeps the last exchanges within a token budget, cutting as rarely as it may" }

impl SessionTrimmer for Plugin {
    fn trim(_: &Request, budget: Budget, all: &Transcript) -> Result<Decision, String> {
        Ok(trim(config()?, &budget, &all.messages()))
    }
}

struct Limits {
    exchanges: usize,
    slack: usize,
}

impl Configured for Limits {
    const SCHEMA: &'static str = include_str!("config.schema.json");

    fn new(json: &str) -> Result<Self, String> {
        let settings = Settings::read(Self::SCHEMA, json)?;
        let number = |key| settings.number(key) as usize;
        Ok(Self {
            exchanges: number("exchanges"),
            slack: number("slack"),
        })
    }

    /// Tries the configured limits on a session one exchange longer than they allow.
    fn self_test(&self) -> Result<(), String> {
        let most = self.exchanges + self.slack;
        let messages: Vec<Message> = (0..2 * (most as u64 + 1) + 1)
            .map(|id| Message {
                id,
                role: if id % 2 == 0 {
                    types::Role::User
                } else {
                    types::Role::Assistant
                },
                tokens: 10,
                pinned: false,
                exchange: id as u32 / 2,
            })
            .collect();
        let roomy = Budget {
            max_tokens: u32::MAX,
            low_water: u32::MAX,
            per_message: 5,
            previous_first: None,
        };
        let tight = Budget {
            max_tokens: 20,
            low_water: 10,
            ..roomy
        };
        let newest = messages.last().map_or(0, |m| m.id);
        let cases = [
            (&roomy, &messages[2..], Decision::KeepAll),
            (
                &roomy,
                &messages[..],
                Decision::KeepFrom(newest - 2 * self.exchanges as u64),
            ),
            (&tight, &messages[..], Decision::KeepFrom(newest)),
        ];
        for (budget, messages, expected) in cases {
            let found = trim(self, budget, messages);
            if found != expected {
                return Err(format!("self-test: found {found:?}, expected {expected:?}"));
            }
        }
        Ok(())
    }
}

/// The unpinned messages of one exchange: what a cut takes or leaves as a whole.
struct Exchange {
    number: u32,
    first: u64,
    cost: u64,
}

fn trim(limits: &Limits, budget: &Budget, messages: &[Message]) -> Decision {
    let cost = |m: &Message| u64::from(m.tokens) + u64::from(budget.per_message);
    let pinned: u64 = messages.iter().filter(|m| m.pinned).map(cost).sum();
    let mut exchanges: Vec<Exchange> = Vec::new();
    for message in messages.iter().filter(|m| !m.pinned) {
        match exchanges.last_mut() {
            Some(last) if last.number == message.exchange => last.cost += cost(message),
            _ => exchanges.push(Exchange {
                number: message.exchange,
                first: message.id,
                cost: cost(message),
            }),
        }
    }

    // The newest message is no history. Where it is pinned it stays by that.
    let new = usize::from(messages.last().is_some_and(|m| !m.pinned));
    let newest = exchanges.len() - new;
    let cost_from = |start: usize| pinned + exchanges[start..].iter().map(|e| e.cost).sum::<u64>();
    let max_tokens = u64::from(budget.max_tokens);

    // Where the last cut was, if that is still the beginning of an exchange.
    let anchor = budget
        .previous_first
        .and_then(|id| exchanges.iter().position(|e| e.first == id));
    let mut start = anchor.unwrap_or(0).min(newest);
    if newest - start > limits.exchanges + limits.slack {
        start = newest - limits.exchanges;
    }
    if cost_from(start) > max_tokens {
        start = start.max(newest.saturating_sub(limits.exchanges));
    }
    if cost_from(start) > max_tokens {
        let low_water = u64::from(budget.low_water).min(max_tokens);
        start = (start..newest)
            .find(|&s| cost_from(s) <= low_water)
            .unwrap_or(newest);
    }

    match exchanges.get(start) {
        _ if start == 0 => Decision::KeepAll,
        Some(exchange) => Decision::KeepFrom(exchange.first),
        None => Decision::Keep(messages.iter().filter(|m| m.pinned).map(|m| m.id).collect()),
    }
}

use stent::policy::types;

#[cfg(test)]
mod tests;
