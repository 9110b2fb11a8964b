//! The prompt format that Mistral 7B Instruct and BioMistral were trained with:
//!
//!     <s>[INST] system text, question [/INST] answer</s>[INST] next question [/INST]
//!
//! It knows no system role and wants strict alternation, so system messages go before the first
//! question and neighbours of one role are joined.

use std::sync::OnceLock;

use kit::Settings;

wit_bindgen::generate!({ path: "../../wit", world: "prompt", additional_derives: [PartialEq] });

use exports::stent::policy::policy::{Descriptor, Guest as Policy};
use exports::stent::policy::prompt_builder::{Guest as PromptBuilder, Layout, Piece, Plan};
use stent::policy::host::count_tokens;
use stent::policy::request::{Message, Request, Transcript};
use stent::policy::types::Role;

const SCHEMA: &str = include_str!("config.schema.json");
/// In Mistral's vocabulary these are ordinary text, so only the host can keep users from them.
const RESERVED: [&str; 4] = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"];
const JOIN: &str = "\n\n";
static STATE: OnceLock<(Style, Cost)> = OnceLock::new();

struct Plugin;
export!(Plugin);

impl Policy for Plugin {
    fn describe() -> Descriptor {
        Descriptor {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Mistral's [INST] format with a system text and example exchanges".into(),
            config_schema: Some(SCHEMA.into()),
        }
    }

    fn configure(config: String) -> Result<(), String> {
        let style = Style::new(&config)?;
        let cost = Cost::of(&style, count_tokens);
        STATE
            .set((style, cost))
            .map_err(|_| "configure: called twice".into())
    }

    fn self_test() -> Result<(), String> {
        let (style, cost) = state()?;
        self_test(style, cost)
    }
}

impl PromptBuilder for Plugin {
    /// Measured while configuring, which the host does ahead of requests.
    fn declare(_: &Request) -> Layout {
        let cost = state().map_or(Cost::default(), |(_, cost)| *cost);
        let reserved = RESERVED.map(Into::into).into();
        Layout {
            fixed: cost.fixed,
            per_message: cost.per_message,
            reserved,
        }
    }

    fn build(_: &Request, kept: &Transcript) -> Result<Plan, String> {
        let pieces = build(&state()?.0, &kept.messages())?;
        // The next turn goes on after the last `[/INST]` with this turn's answer.
        Ok(Plan {
            stable_pieces: pieces.len() as u32,
            pieces,
            stop: vec![],
        })
    }
}

fn state() -> Result<&'static (Style, Cost), String> {
    STATE
        .get()
        .ok_or_else(|| "prompt-mistral was not configured".into())
}

struct Style {
    /// Ends with `JOIN` unless it is empty.
    system: String,
    /// Questions with their answers.
    few_shot: Vec<(String, String)>,
}

impl Style {
    fn new(config: &str) -> Result<Self, String> {
        let settings = Settings::read(SCHEMA, config)?;
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
struct Cost {
    fixed: u32,
    per_message: u32,
}

impl Cost {
    fn of(style: &Style, count: impl Fn(&str) -> u32) -> Self {
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

fn build(style: &Style, messages: &[Message]) -> Result<Vec<Piece>, String> {
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

/// Builds a sample conversation in the configured style and holds it against the promises.
fn self_test(style: &Style, cost: &Cost) -> Result<(), String> {
    use Role::{Assistant, System, User};
    let roles = [System, User, Assistant, User, User];
    let messages: Vec<Message> = (0..)
        .zip(roles)
        .map(|(id, role)| sample(id, role))
        .collect();
    let pieces = build(style, &messages)?;
    let marks = |mark: &str| {
        let holds = |p: &&Piece| matches!(p, Piece::Control(c) if c.contains(mark));
        pieces.iter().filter(holds).count()
    };
    let turns = 2 + style.few_shot.len();
    if marks("[INST]") != turns || marks("[/INST]") != turns {
        return Err(format!(
            "self-test: the turns do not alternate in {pieces:?}"
        ));
    }
    if cost.per_message == 0 || cost.fixed < 2 {
        return Err("self-test: the host counts no tokens in the marks of the layout".into());
    }
    match build(style, &messages[..3]) {
        Ok(_) => Err("self-test: a conversation that ends with an answer was built".into()),
        Err(_) => Ok(()),
    }
}

fn sample(id: u64, role: Role) -> Message {
    Message {
        id,
        role,
        tokens: 7,
        pinned: role == Role::System,
        exchange: id as u32 / 2,
    }
}

#[cfg(test)]
mod tests;
