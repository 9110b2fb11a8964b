//! The prompt format that Mistral 7B Instruct and BioMistral were trained with:
//!
//!     <s>[INST] system text, question [/INST] answer</s>[INST] next question [/INST]
//!
//! It knows no system role and wants strict alternation, so system messages go before the first
//! question and neighbours of one role are joined.

use kit::Configured;

wit_bindgen::generate!({ path: "../../wit", world: "prompt", additional_derives: [PartialEq] });

mod layout;

use exports::stent::policy::prompt_builder::{Guest as PromptBuilder, Layout, Piece, Plan};
use layout::{Cost, RESERVED, Style, build};
use stent::policy::host::count_tokens;
use stent::policy::request::{Message, Request, Transcript};
use stent::policy::types::Role;

kit::policy! { config: Format, summary: "Mistral's [INST] format with a system text and example exchanges" }

impl PromptBuilder for Plugin {
    fn declare(_: &Request) -> Layout {
        let cost = config().map_or(Cost::default(), |format| format.cost);
        let reserved = RESERVED.map(Into::into).into();
        Layout {
            fixed: cost.fixed,
            per_message: cost.per_message,
            reserved,
        }
    }

    fn build(_: &Request, kept: &Transcript) -> Result<Plan, String> {
        let pieces = build(&config()?.style, &kept.messages())?;
        // The next turn goes on after the last `[/INST]` with this turn's answer.
        Ok(Plan {
            stable_pieces: pieces.len() as u32,
            pieces,
            stop: vec![],
        })
    }
}

/// What every prompt of this configuration looks like, and what that costs.
struct Format {
    style: Style,
    cost: Cost,
}

impl Configured for Format {
    const SCHEMA: &'static str = include_str!("config.schema.json");

    /// Counts tokens here, ahead of requests, and not in `declare`, which users wait for.
    fn new(json: &str) -> Result<Self, String> {
        let style = Style::new(Self::SCHEMA, json)?;
        let cost = Cost::of(&style, count_tokens);
        Ok(Self { style, cost })
    }

    /// Builds a sample conversation in the configured style and holds it against the promises.
    fn self_test(&self) -> Result<(), String> {
        use Role::{Assistant, System, User};
        let roles = [System, User, Assistant, User, User];
        let messages: Vec<Message> = (0..)
            .zip(roles)
            .map(|(id, role)| sample(id, role))
            .collect();
        let pieces = build(&self.style, &messages)?;
        let marks = |mark: &str| {
            let holds = |p: &&Piece| matches!(p, Piece::Control(c) if c.contains(mark));
            pieces.iter().filter(holds).count()
        };
        let turns = 2 + self.style.few_shot.len();
        if marks("[INST]") != turns || marks("[/INST]") != turns {
            return Err(format!(
                "self-test: the turns do not alternate in {pieces:?}"
            ));
        }
        if self.cost.per_message == 0 || self.cost.fixed < 2 {
            return Err("self-test: the host counts no tokens in the marks of the layout".into());
        }
        match build(&self.style, &messages[..3]) {
            Ok(_) => Err("self-test: a conversation that ends with an answer was built".into()),
            Err(_) => Ok(()),
        }
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
