//! Answers again what was answered before. The key is the final prompt, to the token; with
//! `normalise` it is the question without regard to case, spacing and the punctuation that ends
//! it. Only answers that the model itself finished are kept.

use kit::{Configured, Settings};

wit_bindgen::generate!({ path: "../../wit", world: "caching", additional_derives: [PartialEq] });

use exports::stent::policy::cache::{
    Admission, Answer, Basis, Guest as Cache, Key, Lookup, Outcome,
};
use stent::policy::request::{Message, Request, Transcript};
use stent::policy::types::{Finish, Role, Scope};

kit::policy! { config: Config, summary: "Answers the same prompt, or the same question, from memory" }

impl Cache for Plugin {
    fn decide(req: &Request, all: &Transcript) -> Result<Lookup, String> {
        let key = key(config()?, req.granted(), &all.messages(), |id| all.text(id));
        Ok(Lookup::By(key))
    }

    fn admit(
        _: &Request,
        _: &Transcript,
        answer: &Answer,
        outcome: Outcome,
    ) -> Result<Admission, String> {
        Ok(admit(config()?, answer.bytes(), outcome.finish))
    }
}

struct Config {
    scope: Scope,
    ttl_ms: u64,
    max_age_ms: u64,
    normalise: Normalise,
}

#[derive(PartialEq)]
enum Normalise {
    Never,
    LoneQuestions,
    Conversations,
}

impl Configured for Config {
    const SCHEMA: &'static str = include_str!("config.schema.json");

    fn new(json: &str) -> Result<Self, String> {
        let settings = Settings::read(Self::SCHEMA, json)?;
        let scope = match settings.text("scope") {
            "shared" => Scope::Shared,
            "tenant" => Scope::Tenant,
            _ => Scope::Session,
        };
        let normalise = match (
            settings.flag("normalise"),
            settings.flag("normalise_history"),
        ) {
            (false, false) => Normalise::Never,
            (true, false) => Normalise::LoneQuestions,
            (true, true) => Normalise::Conversations,
            (false, true) => {
                return Err(
                    "config.normalise_history: found true, expected normalise = true with it"
                        .into(),
                );
            }
        };
        let ttl_ms = 1000 * settings.number("ttl_seconds");
        let max_age_ms = match settings.number("max_age_seconds") {
            0 => ttl_ms,
            seconds => 1000 * seconds,
        };
        Ok(Self {
            scope,
            ttl_ms,
            max_age_ms,
            normalise,
        })
    }

    fn self_test(&self) -> Result<(), String> {
        let question = [Message {
            id: 1,
            role: Role::User,
            tokens: 4,
            pinned: false,
            exchange: 0,
        }];
        let ask = |text: &str| key(self, Scope::Session, &question, |_| Some(text.into()));
        let normalises = self.normalise != Normalise::Never;
        if ask("What is asthma?").scope != Scope::Session {
            return Err("self-test: a key is wider than what was granted".into());
        }
        if ask("What is asthma?") != ask("what  is asthma") {
            return Err("self-test: two spellings of one question have different keys".into());
        }
        if normalises && ask("What is asthma?") == ask("What is gout?") {
            return Err("self-test: two questions share a key".into());
        }
        match admit(self, 9, Finish::Length) {
            Admission::Skip => Ok(()),
            Admission::Store(_) => Err("self-test: half an answer was kept".into()),
        }
    }
}

fn key(
    config: &Config,
    granted: Scope,
    messages: &[Message],
    text: impl Fn(u64) -> Option<String>,
) -> Key {
    let alone = messages.iter().filter(|m| m.role != Role::System).count() == 1;
    let parts = match config.normalise {
        Normalise::Conversations => parts(messages, text),
        Normalise::LoneQuestions if alone => parts(messages, text),
        Normalise::Never | Normalise::LoneQuestions => None,
    };
    Key {
        basis: parts.map_or(Basis::ExactPrompt, Basis::Parts),
        scope: config.scope.min(granted),
        max_age_ms: config.max_age_ms,
    }
}

/// All that an answer depends on: who said what, in order. None where nothing is left of the
/// question ("???"), or a text is missing.
fn parts(messages: &[Message], text: impl Fn(u64) -> Option<String>) -> Option<Vec<String>> {
    let part = |message: &Message| {
        let text = text(message.id)?;
        Some(match message.role {
            Role::System => format!("system:{text}"),
            Role::User => format!("user:{}", normalise(&text)),
            Role::Assistant => format!("assistant:{text}"),
            Role::Tool => format!("tool:{text}"),
        })
    };
    let parts: Vec<String> = messages.iter().map(part).collect::<Option<_>>()?;
    parts.last().is_some_and(|p| p != "user:").then_some(parts)
}

fn normalise(question: &str) -> String {
    let words: Vec<String> = question.split_whitespace().map(str::to_lowercase).collect();
    let ends = |c: char| c.is_whitespace() || ".,;:!?…。！？".contains(c);
    words.join(" ").trim_end_matches(ends).to_owned()
}

/// An answer that was cut off, filtered or empty is not worth repeating.
fn admit(config: &Config, bytes: u64, finish: Finish) -> Admission {
    match finish {
        Finish::Stop if bytes > 0 => Admission::Store(config.ttl_ms),
        _ => Admission::Skip,
    }
}

#[cfg(test)]
mod tests;
