//! Mistral's `[INST]` format with a system text:
//!
//!     <s>[INST]system text, question[/INST]answer</s>[INST]next question[/INST]

use crate::exports::stent::policy::prompt_builder::{Guest, Layout, Piece, Plan};
use crate::settings::Settings;
use crate::stent::policy::host::count_tokens;
use crate::stent::policy::request::{Message, Request, Transcript};
use crate::stent::policy::types::Role;
use crate::{Plugin, config};

pub const SUMMARY: &str = "Mistral's [INST] format with a system text";

const OPEN: &str = "[INST]";
const CLOSE: &str = "[/INST]";
const JOIN: &str = "\n\n";

pub struct Config {
    /// Ends with `JOIN` unless it is empty.
    system: String,
    fixed: u32,
    per_message: u32,
}

impl Config {
    /// Counts tokens here, ahead of requests, and not in `declare`, which users wait for.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let mut system = settings.text("system").to_owned();
        if let Some(mark) = [OPEN, CLOSE].into_iter().find(|m| system.contains(m)) {
            return Err(format!(
                "config.system: found {mark}, expected text without it"
            ));
        }
        if !system.is_empty() {
            system.push_str(JOIN);
        }
        // `<s>` and `</s>` are one token each.
        let (open, close) = (1 + count_tokens(OPEN), count_tokens(CLOSE));
        Ok(Self {
            fixed: open + count_tokens(&system) + close,
            per_message: open.max(close).max(count_tokens(JOIN)),
            system,
        })
    }

    pub fn self_test(&self) -> Result<(), String> {
        match self.per_message < 2 {
            true => Err("self-test: the host counts no tokens in the marks of the layout".into()),
            false => Ok(()),
        }
    }
}

impl Guest for Plugin {
    fn declare(_: &Request) -> Layout {
        let (fixed, per_message) = config().map_or((0, 0), |c| (c.fixed, c.per_message));
        Layout {
            fixed,
            per_message,
            reserved: vec![OPEN.into(), CLOSE.into()],
        }
    }

    fn build(_: &Request, kept: &Transcript) -> Result<Plan, String> {
        let pieces = build(&config()?.system, &kept.messages())?;
        Ok(Plan {
            // The next turn goes on behind the last `[/INST]`, with this turn's answer.
            stable_pieces: pieces.len() as u32,
            pieces,
            stop: vec![],
        })
    }
}

/// Neighbours of one side are joined; all but the assistant's messages are on the asking side.
fn build(system: &str, messages: &[Message]) -> Result<Vec<Piece>, String> {
    let control = |marks: &str| Piece::Control(marks.into());
    let text = |words: &str| Piece::Text(words.into());
    let mut pieces = vec![control("<s>[INST]")];
    if !system.is_empty() {
        pieces.push(text(system));
    }
    let mut before = None;
    for message in messages {
        let answers = message.role == Role::Assistant;
        match (before, answers) {
            (None, false) => {}
            (None | Some(false), true) => pieces.push(control(CLOSE)),
            (Some(true), false) => pieces.push(control("</s>[INST]")),
            (Some(false), false) | (Some(true), true) => pieces.push(text(JOIN)),
        }
        pieces.push(Piece::Message(message.id));
        before = Some(answers);
    }
    if before != Some(false) {
        return Err("the last message is not a question".into());
    }
    pieces.push(control(CLOSE));
    Ok(pieces)
}
