//! What decides when no guest does: small, dull, and unable to fail.

use super::budget::{Budget, trimmed};
use super::types::{Layout, Trimmed};
use crate::types::{Message, Role, Special, Token, Tokenizer};

/// Exchanges that stay beside the newest message.
const EXCHANGES: u32 = 3;

/// The last exchanges that fit, whole ones only, and everything pinned.
pub(super) fn trim(messages: &[Message], budget: &Budget) -> Trimmed {
    let Some((newest, current)) = messages.iter().enumerate().next_back() else {
        return trimmed(messages, Vec::new());
    };
    let keeps = |oldest: u32, at: usize, m: &Message| {
        m.pinned || at == newest || (m.exchange >= oldest && m.exchange <= current.exchange)
    };
    let pick = |oldest: u32| -> Vec<usize> {
        let all = messages.iter().enumerate();
        all.filter(|&(at, m)| keeps(oldest, at, m))
            .map(|(at, _)| at)
            .collect()
    };
    let earliest = current.exchange.saturating_sub(EXCHANGES);
    let fitting = (earliest..=current.exchange)
        .map(pick)
        .find(|kept| budget.cost(kept.iter().map(|&at| &messages[at])) <= budget.max_tokens);
    // The caller has checked that pinned and newest messages fit.
    trimmed(messages, fitting.unwrap_or_else(|| pick(u32::MAX)))
}

/// A piece of a native prompt.
pub(super) enum Piece<'m> {
    Control(&'static str),
    Message(&'m Message),
}

/// Mistral's instruction format: `<s>[INST] question [/INST] answer</s>`, a system text in front
/// of the first question.
pub(super) fn build(kept: &[Message]) -> Vec<Piece<'_>> {
    let mut pieces = vec![Piece::Control("<s>")];
    let mut asking = false;
    for message in kept {
        match (message.role, asking) {
            (Role::Assistant, true) => pieces.push(Piece::Control(" [/INST]")),
            (Role::Assistant, false) => {}
            (_, false) => pieces.push(Piece::Control("[INST] ")),
            (_, true) => pieces.push(Piece::Control("\n")),
        }
        pieces.push(Piece::Message(message));
        asking = message.role != Role::Assistant;
        if !asking {
            pieces.push(Piece::Control("</s>"));
        }
    }
    pieces.push(Piece::Control(" [/INST]"));
    pieces
}

/// What [`build`] adds, counted with the model's own tokenizer.
pub(super) fn layout(tokenizer: &dyn Tokenizer) -> Layout {
    let cost = |text| {
        let tokens: Vec<Token> = tokenizer.encode(text, Special::Parse);
        u32::try_from(tokens.len()).unwrap_or(u32::MAX)
    };
    Layout {
        fixed: cost("<s>") + cost(" [/INST]"),
        per_message: cost("[INST] ").max(cost(" [/INST]") + cost("</s>")),
        reserved: ["[INST]", "[/INST]"].map(String::from).into(),
    }
}
