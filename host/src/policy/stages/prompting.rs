//! From kept messages to tokens: the policy orders pieces, the host encodes them.

use std::collections::HashSet;

use tracing::Instrument;

use super::ask::{transcript, wrong_hook};
use super::{Declared, Pinned, Snapshot, is_fault};
use crate::policy::bindings::v0_1::exports::stent::policy::prompt_builder as wit;
use crate::policy::call::{Ask, Call};
use crate::policy::fault::{Denied, RunError};
use crate::policy::guest::{HookGuest, Instance, flatten};
use crate::policy::neutral::{border, neutralise};
use crate::policy::types::{Hook, Layout, Prompt};
use crate::policy::{native, stages::Asked};
use crate::types::{Message, Special, Token, Tokenizer};

/// Most and longest strings that a layout may reserve and a plan may stop at.
const STRINGS: usize = 64;
const STRING_BYTES: usize = 256;
/// Most pieces of a plan, and most of its own text.
const PIECES: usize = 10_000;
const OWN_BYTES: usize = 1 << 20;

/// A piece whose message is resolved.
enum Piece<'m> {
    Control(&'m str),
    Text(&'m str),
    Message(&'m Message),
}

/// Asks for the layout; the instance is kept for `build`.
pub(super) async fn declared(pinned: &Pinned) -> Result<Declared, Denied> {
    let asked = pinned
        .asked_of(pinned.generation.of(Hook::Prompt))
        .layout()
        .await;
    let by_guest = asked.map(|answer| {
        answer.map(|(layout, instance)| {
            *pinned.builder() = Some(instance);
            Declared {
                layout,
                by_guest: true,
            }
        })
    });
    let native = || Declared {
        layout: pinned.shared.native_layout.clone(),
        by_guest: false,
    };
    pinned.settle(Hook::Prompt, by_guest, native)
}

/// The whole prompt as text, for golden cases.
pub(in crate::policy) async fn case_prompt(
    asked: &Asked,
    messages: &[Message],
) -> Option<Result<String, RunError>> {
    let (layout, instance) = match asked.layout().await? {
        Ok(answered) => answered,
        Err(fault) => return Some(Err(fault)),
    };
    let built = asked.build(messages, &layout, Some(instance)).await?;
    let tokenizer = &asked.shared.tokenizer;
    let bytes = |prompt: Prompt| {
        prompt
            .tokens
            .iter()
            .flat_map(|&t| tokenizer.bytes(t))
            .collect()
    };
    Some(built.map(|prompt| {
        let bytes: Vec<u8> = bytes(prompt);
        String::from_utf8_lossy(&bytes).into_owned()
    }))
}

/// Asks for the plan and encodes it; a layout of native code is built by native code.
pub(super) async fn build(
    snapshot: &Snapshot,
    kept: &[Message],
    Declared { layout, by_guest }: &Declared,
) -> Result<Prompt, Denied> {
    let pinned = &*snapshot.0;
    let live = pinned.generation.of(Hook::Prompt);
    let (prompt, faulted) = match by_guest {
        // A guest that could not even declare a layout has faulted.
        false => (native_prompt(pinned, kept), live.pool.is_some()),
        true => {
            let instance = pinned.builder().take();
            let built = pinned.asked_of(live).build(kept, layout, instance).await;
            let faulted = is_fault(&built);
            let built = pinned.settle(Hook::Prompt, built.map(|b| b.map(Some)), || None)?;
            (
                built.map_or_else(|| native_prompt(pinned, kept), Ok),
                faulted,
            )
        }
    };
    if let Some((shadow, ask)) = snapshot.shadow(Hook::Prompt, faulted) {
        let (kept, layout) = (kept.to_vec(), layout.clone());
        shadow.compare(&pinned.shared.observer, &prompt, async move {
            ask.build(&kept, &layout, None).await
        });
    }
    prompt
}

impl Asked {
    pub(in crate::policy) async fn layout(&self) -> Option<Result<(Layout, Instance), RunError>> {
        let mut call = match Call::start(self, Ask::Layout).await? {
            Ok(call) => call,
            Err(fault) => return Some(Err(fault)),
        };
        let span = call.span.clone();
        let result = async {
            let HookGuest::Prompt(guest) = &call.instance.hook else {
                return Err(wrong_hook());
            };
            let guest = guest.clone();
            let request = self
                .request(&mut call.instance)
                .map_err(|e| RunError::of(&e))?;
            let layout = guest.call_declare(&mut call.instance.store, request).await;
            verified(layout.map_err(|e| RunError::of(&e))?)
        }
        .instrument(span)
        .await;
        Some(match result {
            Ok(layout) => Ok((layout, call.keep(&Ok(())))),
            Err(fault) => {
                let result = Err(fault);
                call.end(&result);
                result
            }
        })
    }

    pub(in crate::policy) async fn build(
        &self,
        kept: &[Message],
        layout: &Layout,
        instance: Option<Instance>,
    ) -> Option<Result<Prompt, RunError>> {
        let started = match instance {
            Some(instance) => Ok(Call::resume(self, Ask::Build, instance)?),
            None => Call::start(self, Ask::Build).await?,
        };
        let mut call = match started {
            Ok(call) => call,
            Err(fault) => return Some(Err(fault)),
        };
        let span = call.span.clone();
        let result = async {
            let HookGuest::Prompt(guest) = &call.instance.hook else {
                return Err(wrong_hook());
            };
            let guest = guest.clone();
            let request = self
                .request(&mut call.instance)
                .map_err(|e| RunError::of(&e))?;
            let all = transcript(&mut call.instance, kept).map_err(|e| RunError::of(&e))?;
            let plan = flatten(
                guest
                    .call_build(&mut call.instance.store, request, all)
                    .await,
            )?;
            let room = self
                .facts
                .context
                .saturating_sub(self.facts.reserved_output);
            encode(&*self.shared.tokenizer, kept, &plan, layout, room)
        }
        .instrument(span)
        .await;
        call.end(&result);
        Some(result)
    }
}

fn verified(layout: wit::Layout) -> Result<Layout, RunError> {
    bounded("reserved", &layout.reserved)?;
    Ok(Layout {
        fixed: layout.fixed,
        per_message: layout.per_message,
        reserved: layout.reserved.into(),
    })
}

fn bounded(what: &str, strings: &[String]) -> Result<(), RunError> {
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
fn encode(
    tokenizer: &dyn Tokenizer,
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
    } = join(tokenizer, &pieces, stable_pieces, &layout.reserved);
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
fn join(
    tokenizer: &dyn Tokenizer,
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
            tokens.extend(tokenizer.encode(breaker.encode_utf8(&mut [0; 4]), Special::AsText));
            tail.push(breaker);
        }
        match piece {
            Piece::Control(text) => tokens.extend(tokenizer.encode(text, Special::Parse)),
            Piece::Message(message) if matches!(harmless, std::borrow::Cow::Borrowed(_)) => {
                tokens.extend_from_slice(&message.tokens);
            }
            _ => tokens.extend(tokenizer.encode(&harmless, Special::AsText)),
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
struct Joined {
    tokens: Vec<Token>,
    stable: usize,
    head: usize,
}

fn native_prompt(pinned: &Pinned, kept: &[Message]) -> Result<Prompt, Denied> {
    let shared = &pinned.shared;
    let pieces: Vec<_> = native::build(kept)
        .into_iter()
        .map(|piece| match piece {
            native::Piece::Control(text) => Piece::Control(text),
            native::Piece::Message(message) => Piece::Message(message),
        })
        .collect();
    // The next turn's prompt is this one, the answer, and what follows.
    let stable_pieces = pieces.len();
    let reserved = &shared.native_layout.reserved;
    let Joined {
        tokens,
        stable,
        head,
    } = join(&*shared.tokenizer, &pieces, stable_pieces, reserved);
    let available = pinned
        .facts
        .context
        .saturating_sub(pinned.facts.reserved_output);
    if tokens.len() > available as usize {
        let needed = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        return Err(Denied::TooLong { needed, available });
    }
    Ok(Prompt {
        tokens,
        stable,
        head,
        stop: Vec::new(),
    })
}
