//! A policy to start from: the last messages of a session stay.

use kit::{Configured, Settings};

wit_bindgen::generate!({ path: "../../wit", world: "trim" });
use exports::stent::policy::session_trimmer::{Budget, Decision, Guest};
use stent::policy::request::{Request, Transcript};

kit::policy! { config: Last, summary: "Keeps the last messages" }

struct Last(usize);

impl Configured for Last {
    const SCHEMA: &'static str = include_str!("config.schema.json");

    fn new(json: &str) -> Result<Self, String> {
        Ok(Self(
            Settings::read(Self::SCHEMA, json)?.number("messages") as usize
        ))
    }

    fn self_test(&self) -> Result<(), String> {
        Ok(()) // no value of `messages` can make it wrong
    }
}

impl Guest for Plugin {
    fn trim(_: &Request, _: Budget, all: &Transcript) -> Result<Decision, String> {
        let messages = all.messages();
        let cut = messages.len().saturating_sub(config()?.0);
        Ok(messages
            .get(cut)
            .map_or(Decision::KeepAll, |first| Decision::KeepFrom(first.id)))
    }
}
