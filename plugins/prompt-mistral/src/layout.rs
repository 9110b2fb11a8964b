//! The layout itself: what stands around the messages, and what that costs.

use kit::Settings;

use crate::exports::stent::policy::prompt_builder::Piece;
use crate::stent::policy::request::Message;
use crate::stent::policy::types::Role;

/// In Mistral's vocabulary these are ordinary text, so only the host can keep users from them.
pub const RESERVED: [&str; 4] = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"];
pub const JOIN: &str = "\n\n";

pub struct Style {
    /// Ends with `JOIN` unless it is empty.
    system: String,
    /// Questions with their answers.
    pub few_shot: Vec<(String, String)>,
}

impl Style {
    pub fn new(schema: &str, config: &str) -> Result<Self, String> {
        let settings = Settings::read(schema, config)?;
        let own_words = |key: &str, text: &str| match RESERVED.iter().find(|r| text.contains(*r)) {
            Some(mark) => Err(format!(
                "config.{key}: found {mark}, expected text without the marks of the layout"
            )),
            None => Ok(text.to_owned()),
        };
        let mut system = own_words("system", settings.text("system"))?;
        if !system.is_empty() {
            system.push_str(JOIN);
        }
        let shot = |s: Settings| {
            Ok((
                own_words("few_shot.user", s.text("user"))?,
                own_words("few_shot.assistant", s.text("assistant"))?,
            ))
        };
        let few_shot = settings
            .tables("few_shot")
            .map(shot)
            .collect::<Result<_, String>>()?;
        Ok(Self { system, few_shot })
    }
}

/// Upper bounds of what the layout adds, in tokens.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    pub fixed: u32,
    pub per_message: u32,
}

impl Cost {
    pub fn of(style: &Style, count: impl Fn(&str) -> u32) -> Self {
        // `<s>` and `</s>` are one token each.
        let (open, close) = (1 + count("[INST]"), count("[/INST]"));
        let text = |text: &str| if text.is_empty() { 0 } else { count(text) };
        let shots = style
            .few_shot
            .iter()
            .map(|(q, a)| text(q) + close + text(a) + open)
            .sum::<u32>();
        Self {
            fixed: open + text(&style.system) + shots + close,
            // A message after another one begins a question, ends one, or is joined.
            per_message: open.max(close).max(count(JOIN)),
        }
    }
}

pub fn build(style: &Style, messages: &[Message]) -> Result<Vec<Piece>, String> {
    let control = |marks: &str| Piece::Control(marks.into());
    let text = |words: &str| Piece::Text(words.into());
    let (system, turns): (Vec<&Message>, Vec<&Message>) =
        messages.iter().partition(|m| m.role == Role::System);

    let mut pieces = vec![control("<s>[INST]")];
    if !style.system.is_empty() {
        pieces.push(text(&style.system));
    }
    for message in system {
        pieces.extend([Piece::Message(message.id), text(JOIN)]);
    }
    for (question, answer) in &style.few_shot {
        pieces.extend([
            text(question),
            control("[/INST]"),
            text(answer),
            control("</s>[INST]"),
        ]);
    }
    let mut before = None;
    for message in turns {
        let answers = message.role == Role::Assistant;
        match (before, answers) {
            (None, false) => {}
            (None | Some(false), true) => pieces.push(control("[/INST]")),
            (Some(true), false) => pieces.push(control("</s>[INST]")),
            (Some(false), false) | (Some(true), true) => pieces.push(text(JOIN)),
        }
        pieces.push(Piece::Message(message.id));
        before = Some(answers);
    }
    if before != Some(false) {
        return Err(
            "the last message is not a question, which this layout needs to ask for an answer"
                .into(),
        );
    }
    pieces.push(control("[/INST]"));
    Ok(pieces)
}
