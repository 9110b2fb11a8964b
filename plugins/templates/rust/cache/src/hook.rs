//! Answers a question that stands alone from memory, whatever its case, spacing and closing
//! marks. In a conversation the whole prompt is the key.

use crate::exports::stent::policy::cache::{Admission, Answer, Basis, Guest, Key, Lookup, Outcome};
use crate::settings::Settings;
use crate::stent::policy::request::{Request, Transcript};
use crate::stent::policy::types::{Finish, Role, Scope};
use crate::{Plugin, config};

pub const SUMMARY: &str = "Answers the same question again from memory";

pub struct Config {
    ttl_ms: u64,
}

impl Config {
    pub fn new(settings: &Settings) -> Result<Self, String> {
        Ok(Self {
            ttl_ms: 1000 * settings.number("ttl_seconds"),
        })
    }

    pub fn self_test(&self) -> Result<(), String> {
        match normalise(" What  is asthma ?") == normalise("what is asthma") {
            true => Ok(()),
            false => Err("self-test: two spellings of one question differ".into()),
        }
    }
}

impl Guest for Plugin {
    fn decide(_: &Request, all: &Transcript) -> Result<Lookup, String> {
        let question = match all.messages().as_slice() {
            [only] if only.role == Role::User => all.text(only.id).unwrap_or_default(),
            _ => String::new(),
        };
        let question = normalise(&question);
        let basis = match question.is_empty() {
            true => Basis::ExactPrompt,
            false => Basis::Parts(vec![question]),
        };
        Ok(Lookup::By(Key {
            basis,
            scope: Scope::Session,
            max_age_ms: config()?.ttl_ms,
        }))
    }

    /// An answer that was cut off, filtered or empty is not worth repeating.
    fn admit(
        _: &Request,
        _: &Transcript,
        answer: &Answer,
        outcome: Outcome,
    ) -> Result<Admission, String> {
        Ok(match outcome.finish {
            Finish::Stop if answer.bytes() > 0 => Admission::Store(config()?.ttl_ms),
            _ => Admission::Skip,
        })
    }
}

fn normalise(question: &str) -> String {
    let words: Vec<&str> = question.split_ascii_whitespace().collect();
    let ends = |c: char| " .,;:!?".contains(c);
    words
        .join(" ")
        .to_ascii_lowercase()
        .trim_end_matches(ends)
        .to_owned()
}
