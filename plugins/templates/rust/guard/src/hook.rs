//! Refuses messages that are too long.

use crate::exports::stent::policy::guard::{Guest, Verdict};
use crate::settings::Settings;
use crate::stent::policy::request::{Request, Transcript};
use crate::{Plugin, config};

pub const SUMMARY: &str = "Refuses messages that are too long";

pub struct Config {
    max_chars: u64,
}

impl Config {
    pub fn new(settings: &Settings) -> Result<Self, String> {
        Ok(Self {
            max_chars: settings.number("max_chars"),
        })
    }

    pub fn self_test(&self) -> Result<(), String> {
        Ok(()) // no value of `max_chars` can make it wrong
    }
}

impl Guest for Plugin {
    fn check(_: &Request, all: &Transcript) -> Result<Verdict, String> {
        let most = config()?.max_chars;
        let newest = all.messages().last().and_then(|m| all.text(m.id));
        let newest = newest.ok_or("the transcript is empty")?;
        Ok(match newest.chars().count() as u64 {
            length if length > most => Verdict::Refuse(format!(
                "Your message has {length} characters, at most {most} are read. Please shorten it."
            )),
            _ => Verdict::Allow,
        })
    }
}
