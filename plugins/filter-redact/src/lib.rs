//! Takes phone numbers, e-mail addresses and long digit runs out of the answer while it is
//! produced, and may close it with a disclaimer.

use std::cell::RefCell;

use kit::{Configured, Settings};

wit_bindgen::generate!({ path: "../../wit", world: "filtering", additional_derives: [PartialEq] });

mod redact;

use exports::stent::policy::output_filter::{Filter, Guest as OutputFilter, GuestFilter, Step};
use redact::{Redactor, Rules};
use stent::policy::request::Request;
use stent::policy::types::Finish;

kit::policy! { config: Config, summary: "Takes phone numbers, e-mail addresses and long numbers out of answers" }

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

struct Config {
    rules: Rules,
    /// With the empty line before it; empty for none.
    disclaimer: String,
}

impl Configured for Config {
    const SCHEMA: &'static str = include_str!("config.schema.json");

    fn new(json: &str) -> Result<Self, String> {
        let settings = Settings::read(Self::SCHEMA, json)?;
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

    /// Wherever a chunk ends, the outcome is the same, and only what the rules name is taken out.
    fn self_test(&self) -> Result<(), String> {
        let samples = [
            ("Mail jo@example.org. ", self.rules.emails),
            ("Call +44 20 7946 0000! ", self.rules.phones),
            ("Take 500 mg, at most 4 a day. ", false),
        ];
        for (text, taken_out) in samples {
            let whole = redact(self, &[text]);
            if (whole != text) != taken_out {
                return Err(format!("self-test: {text:?} became {whole:?}"));
            }
            for border in 1..text.len() {
                let parts = [&text[..border], &text[border..]];
                if redact(self, &parts) != whole {
                    return Err(format!("self-test: {parts:?} did not become {whole:?}"));
                }
            }
        }
        Ok(())
    }
}

/// A disclaimer belongs to an answer that the reader got as far as it goes.
fn closing(config: &Config, why: Finish) -> &str {
    match why {
        Finish::Stop | Finish::Length => &config.disclaimer,
        Finish::Filtered | Finish::Cancelled | Finish::Error => "",
    }
}

fn redact(config: &Config, chunks: &[&str]) -> String {
    let mut redactor = Redactor::new(config.rules);
    let mut text: String = chunks.iter().map(|chunk| redactor.push(chunk)).collect();
    text.push_str(&redactor.finish());
    text
}

#[cfg(test)]
mod tests;
