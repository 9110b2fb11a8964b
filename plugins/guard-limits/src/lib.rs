//! Looks at the new message: an emergency is answered with a fixed text at once, and what is too
//! long or repeats itself is refused with the reason.

use kit::{Configured, Settings};

wit_bindgen::generate!({ path: "../../wit", world: "guarding", additional_derives: [PartialEq] });

use exports::stent::policy::guard::{Guest as Guard, Verdict};
use stent::policy::request::{Request, Transcript};

/// Repetitions of up to this many letters, or words, are noticed.
const LONGEST_PERIOD: usize = 8;

kit::policy! { config: Rules, summary: "Answers emergencies with a fixed text and refuses long or repetitive messages" }

impl Guard for Plugin {
    fn check(_: &Request, all: &Transcript) -> Result<Verdict, String> {
        let newest = all
            .messages()
            .last()
            .map(|m| m.id)
            .ok_or("the transcript is empty")?;
        let text = all.text(newest).ok_or("the newest message has no text")?;
        Ok(check(config()?, &text))
    }
}

struct Rules {
    max_chars: usize,
    max_repeats: usize,
    /// As `spoken` writes them.
    emergencies: Vec<String>,
    reply: String,
}

impl Configured for Rules {
    const SCHEMA: &'static str = include_str!("config.schema.json");

    fn new(json: &str) -> Result<Self, String> {
        let settings = Settings::read(Self::SCHEMA, json)?;
        let emergencies: Vec<String> = settings.texts("emergency_phrases").map(spoken).collect();
        if let Some(empty) = emergencies.iter().position(|phrase| phrase == " ") {
            return Err(format!(
                "config.emergency_phrases[{empty}]: found no words, expected at least one"
            ));
        }
        Ok(Self {
            max_chars: settings.number("max_chars") as usize,
            max_repeats: settings.number("max_repeats") as usize,
            emergencies,
            reply: settings.text("emergency_reply").into(),
        })
    }

    fn self_test(&self) -> Result<(), String> {
        if let Some(phrase) = self.emergencies.first()
            && check(self, &phrase.to_uppercase()) != Verdict::Reply(self.reply.clone())
        {
            return Err("self-test: an emergency phrase was not answered".into());
        }
        let refused = |text: &str| matches!(check(self, text), Verdict::Refuse(_));
        if !refused(&"-".repeat(self.max_chars + 1)) {
            return Err("self-test: a message over max_chars was not refused".into());
        }
        if !refused(&"ha ".repeat(self.max_repeats + 1)) {
            return Err(
                "self-test: a text repeated more than max_repeats times was not refused".into(),
            );
        }
        Ok(())
    }
}

/// Emergencies come first: a message in panic may well be long and repeat itself.
fn check(rules: &Rules, text: &str) -> Verdict {
    let spoken = spoken(text);
    if rules
        .emergencies
        .iter()
        .any(|phrase| spoken.contains(phrase))
    {
        return Verdict::Reply(rules.reply.clone());
    }
    let (found, most) = (text.chars().count(), rules.max_chars);
    if found > most {
        return Verdict::Refuse(format!(
            "The message has {found} characters; at most {most} are accepted."
        ));
    }
    let letters: Vec<char> = spoken.chars().filter(|c| *c != ' ').collect();
    let words: Vec<&str> = spoken.split(' ').collect();
    let most = rules.max_repeats;
    if repeats(&letters, most) || repeats(&words, most) {
        return Verdict::Refuse(format!(
            "The message repeats the same text more than {most} times."
        ));
    }
    Verdict::Allow
}

/// Lower-case words between single spaces, a space at both ends: "I can't!" is " i cant ".
fn spoken(text: &str) -> String {
    let mut spoken = String::from(" ");
    for c in text.chars().filter(|c| !matches!(c, '\'' | '’')) {
        if c.is_alphanumeric() {
            spoken.extend(c.to_lowercase());
        } else if !spoken.ends_with(' ') {
            spoken.push(' ');
        }
    }
    if !spoken.ends_with(' ') {
        spoken.push(' ');
    }
    spoken
}

/// Whether some sequence of up to `LONGEST_PERIOD` items comes more than `most` times in a row.
fn repeats<T: PartialEq>(items: &[T], most: usize) -> bool {
    (1..=LONGEST_PERIOD).any(|period| {
        let mut same = 0;
        items
            .iter()
            .zip(items.iter().skip(period))
            .any(|(earlier, later)| {
                same = if earlier == later { same + 1 } else { 0 };
                same >= period * most
            })
    })
}

#[cfg(test)]
mod tests;
