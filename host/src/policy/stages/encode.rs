//! Pieces of a prompt become tokens. User text is never parsed for special tokens, and layout
//! strings that were typed, or that arise where pieces meet, are made harmless.

use std::collections::HashSet;

use super::pieces::Pieces;
use crate::policy::bindings::v0_1::exports::stent::policy::prompt_builder as wit;
use crate::policy::fault::RunError;
use crate::policy::neutral::{border, neutralise};
use crate::policy::types::{Layout, Prompt};
use crate::types::{Message, Special, Token};

/// Most and longest strings that a layout may reserve and a plan may stop at.
const STRINGS: usize = 64;
const STRING_BYTES: usize = 256;
/// Most pieces of a plan, and most of its own text.
const PIECES: usize = 10_000;
const OWN_BYTES: usize = 1 << 20;

/// A piece whose message is resolved.
pub(super) enum Piece<'m> {
    Control(&'m str),
    Text(&'m str),
    Message(&'m Message),
}

pub(super) fn bounded(what: &str, strings: &[String]) -> Result<(), RunError> {
    let long = strings
        .iter()
        .find(|s| s.is_empty() || s.len() > STRING_BYTES);
    if strings.len() > STRINGS || long.is_some() {
        return Err(RunError::BadResult(format!(
            "{what} has {} strings, expected at most {STRINGS} of 1 to {STRING_BYTES} bytes",
            strings.len()
        )));
    }
    Ok(())
}

/// Checks the plan against the kept messages, and counts what it really comes to.
pub(super) fn encode(
    encoder: &Pieces,
    kept: &[Message],
    plan: &wit::Plan,
    layout: &Layout,
    room: u32,
) -> Result<Prompt, RunError> {
    bounded("stop", &plan.stop)?;
    let own = |piece: &wit::Piece| match piece {
        wit::Piece::Control(text) | wit::Piece::Text(text) => text.len(),
        wit::Piece::Message(_) => 0,
    };
    let bytes: usize = plan.pieces.iter().map(own).sum();
    if plan.pieces.len() > PIECES || bytes > OWN_BYTES {
        return Err(RunError::BadResult(format!(
            "the plan has {} pieces with {bytes} bytes of its own, at most {PIECES} pieces and \
             {OWN_BYTES} bytes are taken",
            plan.pieces.len()
        )));
    }
    let mut seen = HashSet::new();
    let resolve = |piece| match piece {
        &wit::Piece::Message(id) => {
            let found = kept.iter().find(|m| m.id == id);
            let known = found.ok_or_else(|| format!("message {id} was not kept"))?;
            match seen.insert(id) {
                true => Ok(Piece::Message(known)),
                false => Err(format!("message {id} comes twice")),
            }
        }
        wit::Piece::Control(text) => Ok(Piece::Control(text)),
        wit::Piece::Text(text) => Ok(Piece::Text(text)),
    };
    let pieces: Result<Vec<_>, String> = plan.pieces.iter().map(resolve).collect();
    let pieces = pieces.map_err(RunError::BadResult)?;
    if let Some(missing) = kept.iter().enumerate().find_map(|(at, m)| {
        ((m.pinned || at + 1 == kept.len()) && !seen.contains(&m.id)).then_some(m.id)
    }) {
        return Err(RunError::BadResult(format!(
            "message {missing} must be in the prompt"
        )));
    }
    let stable_pieces = (plan.stable_pieces as usize).min(pieces.len());
    let Joined {
        tokens,
        stable,
        head,
    } = join(encoder, &pieces, stable_pieces, &layout.reserved);
    if tokens.len() > room as usize {
        let came = tokens.len();
        return Err(RunError::BadResult(format!(
            "the prompt has {came} tokens, {room} fit"
        )));
    }
    Ok(Prompt {
        tokens,
        stable,
        head,
        stop: plan.stop.clone(),
    })
}

/// Encodes piece by piece. A text that holds a reserved string is neutralised here if nobody did
/// it before (its message may be older than the layout), and so is one that would arise where two
/// pieces meet.
pub(super) fn join(
    encoder: &Pieces,
    pieces: &[Piece<'_>],
    stable_pieces: usize,
    reserved: &[String],
) -> Joined {
    let length = |piece: &Piece<'_>| match piece {
        // An upper bound for most vocabularies; a wrong one costs a reallocation.
        Piece::Control(text) | Piece::Text(text) => text.len(),
        Piece::Message(message) => message.tokens.len(),
    };
    let mut tokens = Vec::with_capacity(pieces.iter().map(length).sum());
    let mut stable = 0;
    let mut head = None;
    let longest = reserved.iter().map(String::len).max().unwrap_or(0);
    let mut tail = String::new();
    let mut was_control = true;
    for (at, piece) in pieces.iter().enumerate() {
        if at == stable_pieces {
            stable = tokens.len();
        }
        if matches!(piece, Piece::Message(_)) {
            head.get_or_insert(tokens.len());
        }
        let (text, control) = match piece {
            Piece::Control(text) => (*text, true),
            Piece::Text(text) => (*text, false),
            Piece::Message(message) => (&*message.text, false),
        };
        let harmless = match control {
            true => text.into(),
            false => neutralise(text, reserved),
        };
        if !(control && was_control)
            && let Some(breaker) = border(&tail, &harmless, reserved)
        {
            encoder.append(
                &mut tokens,
                breaker.encode_utf8(&mut [0; 4]),
                Special::AsText,
            );
            tail.push(breaker);
        }
        match piece {
            Piece::Control(text) => encoder.append(&mut tokens, text, Special::Parse),
            Piece::Message(message) if matches!(harmless, std::borrow::Cow::Borrowed(_)) => {
                tokens.extend_from_slice(&message.tokens);
            }
            // What people write is nobody's to remember here.
            Piece::Message(_) => encoder.append_once(&mut tokens, &harmless),
            Piece::Text(_) => encoder.append(&mut tokens, &harmless, Special::AsText),
        }
        // An empty piece between two others hides neither of them.
        was_control = control && (was_control || !text.is_empty());
        tail.push_str(&harmless);
        let cut = tail.ceil_char_boundary(tail.len().saturating_sub(longest));
        tail.drain(..cut);
    }
    if stable_pieces == pieces.len() {
        stable = tokens.len();
    }
    Joined {
        head: head.unwrap_or(tokens.len()),
        tokens,
        stable,
    }
}

/// A prompt's tokens, and where its first message and its changing part begin.
pub(super) struct Joined {
    pub tokens: Vec<Token>,
    pub stable: usize,
    pub head: usize,
}
