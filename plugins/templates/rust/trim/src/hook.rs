//! Keeps the last messages that fit.

use crate::exports::stent::policy::session_trimmer::{Budget, Decision, Guest};
use crate::settings::Settings;
use crate::stent::policy::request::{Message, Request, Transcript};
use crate::{Plugin, config};

pub const SUMMARY: &str = "Keeps the last messages that fit";

pub struct Config {
    messages: usize,
}

impl Config {
    pub fn new(settings: &Settings) -> Result<Self, String> {
        Ok(Self {
            messages: settings.number("messages") as usize,
        })
    }

    pub fn self_test(&self) -> Result<(), String> {
        Ok(()) // no value of `messages` can make it wrong
    }
}

impl Guest for Plugin {
    fn trim(_: &Request, budget: Budget, all: &Transcript) -> Result<Decision, String> {
        Ok(trim(config()?.messages, &budget, &all.messages()))
    }
}

/// Walks back from the newest message. That one and pinned ones stay, so they are paid for first.
fn trim(most: usize, budget: &Budget, messages: &[Message]) -> Decision {
    let Some((newest, earlier)) = messages.split_last() else {
        return Decision::KeepAll;
    };
    let price = |m: &Message| u64::from(m.tokens) + u64::from(budget.per_message);
    let pinned = earlier.iter().filter(|m| m.pinned);
    let mut cost = price(newest) + pinned.map(price).sum::<u64>();
    let mut first = newest.id;
    let loose = earlier.iter().rev().filter(|m| !m.pinned);
    for message in loose.take(most - 1) {
        cost += price(message);
        if cost > budget.max_tokens.into() {
            break;
        }
        first = message.id;
    }
    Decision::KeepFrom(first)
}
