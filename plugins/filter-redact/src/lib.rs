//! Takes phone numbers, e-mail addresses and long digit runs out of the answer while it is
//! produced, and may close it with a disclaimer.

use std::cell::RefCell;
use std::sync::OnceLock;

use kit::Settings;

wit_bindgen::generate!({ path: "../../wit", world: "filtering", additional_derives: [PartialEq] });

mod redact;

use exports::stent::policy::output_filter::{Filter, Guest as OutputFilter, GuestFilter, Step};
use exports::stent::policy::policy::{Descriptor, Guest as Policy};
use redact::{Redactor, Rules};
use stent::policy::request::Request;
use stent::policy::types::Finish;

const SCHEMA: &str = include_str!("config.schema.json");
static CONFIG: OnceLock<Config> = OnceLock::new();

struct Plugin;
export!(Plugin);

impl Policy for Plugin {
    fn describe() -> Descriptor {
        Descriptor {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Takes phone numbers, e-mail addresses and long numbers out of answers".into(),
            config_schema: Some(SCHEMA.into()),
        }
    }

    fn configure(config: String) -> Result<(), String> {
        let config = Config::new(&config)?;
        CONFIG
            .set(config)
            .map_err(|_| "configure: called twice".into())
    }

    fn self_test() -> Result<(), String> {
        self_test(config()?)
    }
}

impl OutputFilter for Plugin {
    type Filter = Open;
}

/// The filter of one answer.
struct Open(RefCell<Redactor>);

impl GuestFilter for Open {
    fn open(_: &Request) -> Result<Filter, String> {
        Ok(Filter::new(Open(RefCell::new(Redactor::new(
            config()?.rules,
        )))))
    }

    fn push(&self, chunk: String) -> Result<Step, String> {
        Ok(Step::Emit(self.0.borrow_mut().push(&chunk)))
    }

    fn finish(&self, why: Finish) -> Result<String, String> {
        Ok(self.0.borrow_mut().finish() + closing(config()?, why))
    }
}

fn config() -> Result<&'static Config, String> {
    CONFIG
        .get()
        .ok_or_else(|| "filter-redact was not configured".into())
}

struct Config {
    rules: Rules,
    /// With the empty line before it; empty for none.
    disclaimer: String,
}

impl Config {
    fn new(config: &str) -> Result<Self, String> {
        let settings = Settings::read(SCHEMA, config)?;
        let rules = Rules {
            emails: settings.flag("emails"),
            phones: settings.flag("phones"),
            min_digits: settings.number("min_digits") as usize,
        };
        let disclaimer = match settings.text("disclaimer") {
            "" => String::new(),
            text => format!("\n\n{text}"),
        };
        Ok(Self { rules, disclaimer })
    }
}

/// A disclaimer belongs to an answer that the reader got as far as it goes.
fn closing(config: &Config, why: Finish) -> &str {
    match why {
        Finish::Stop | Finish::Length => &config.disclaimer,
        Finish::Filtered | Finish::Cancelled | Finish::Error => "",
    }
}

/// Wherever a chunk ends, the outcome is the same, and only what the rules name is taken out.
fn self_test(config: &Config) -> Result<(), String> {
    let samples = [
        ("Mail jo@example.org. ", config.rules.emails),
        ("Call +44 20 7946 0000! ", config.rules.phones),
        ("Take 500 mg, at most 4 a day. ", false),
    ];
    for (text, taken_out) in samples {
        let whole = redact(config, &[text]);
        if (whole != text) != taken_out {
            return Err(format!("self-test: {text:?} became {whole:?}"));
        }
        for border in 1..text.len() {
            let parts = [&text[..border], &text[border..]];
            if redact(config, &parts) != whole {
                return Err(format!("self-test: {parts:?} did not become {whole:?}"));
            }
        }
    }
    Ok(())
}

fn redact(config: &Config, chunks: &[&str]) -> String {
    let mut redactor = Redactor::new(config.rules);
    let mut text: String = chunks.iter().map(|chunk| redactor.push(chunk)).collect();
    text.push_str(&redactor.finish());
    text
}

#[cfg(test)]
mod tests;
