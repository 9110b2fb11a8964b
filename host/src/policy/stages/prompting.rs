//! From kept messages to a prompt: the policy declares a layout and orders pieces.

use tracing::Instrument;

use super::ask::{transcript, wrong_hook};
use super::encode::{Joined, Piece, bounded, encode, join};
use super::{Declared, Pinned, Snapshot, is_fault};
use crate::policy::bindings::v0_1::exports::stent::policy::prompt_builder as wit;
use crate::policy::call::{Ask, Call};
use crate::policy::fault::{Denied, RunError};
use crate::policy::guest::{HookGuest, Instance};
use crate::policy::remembered::Question;
use crate::policy::types::{Facts, Hook, Layout, Prompt};
use crate::policy::{native, stages::Asked};
use crate::types::{Message, Token};

/// Asks for the layout; the instance is kept for `build`.
pub(super) async fn declared(pinned: &Pinned) -> Result<Declared, Denied> {
    let live = pinned.asked_of(pinned.generation.of(Hook::Prompt));
    let question = live.question(Ask::Layout, |it| it);
    if let Some(layout) = live.recall(Ask::Layout, question.as_ref()) {
        return Ok(Declared {
            layout,
            by_guest: true,
        });
    }
    let asked = live.layout(question).await;
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

/// The whole prompt as text, and where its answer stops, for golden cases.
pub(in crate::policy) async fn case_prompt(
    asked: &Asked,
    messages: &[Message],
) -> Option<Result<(String, Vec<String>), RunError>> {
    let built = asked.declare_and_build(messages).await?;
    let tokenizer = &asked.shared.tokenizer;
    let bytes = |prompt: &Prompt| -> Vec<u8> {
        prompt
            .tokens
            .iter()
            .flat_map(|&t| tokenizer.bytes(t))
            .collect()
    };
    Some(built.map(|prompt| {
        let text = String::from_utf8_lossy(&bytes(&prompt)).into_owned();
        (text, prompt.stop)
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
            let asked = pinned.asked_of(live);
            let built = asked.build_once(kept, layout, instance).await;
            let faulted = is_fault(&built);
            let built = pinned.settle(Hook::Prompt, built.map(|b| b.map(Some)), || None)?;
            (
                built.map_or_else(|| native_prompt(pinned, kept), Ok),
                faulted,
            )
        }
    };
    if let Some((shadow, ask)) = snapshot.shadow(Hook::Prompt, faulted) {
        let (kept, live) = (kept.to_vec(), prompt.clone().map(told));
        shadow.compare(Ask::Build, &pinned.shared.observer, live, async move {
            let built = ask.declare_and_build(&kept).await?;
            Some(built.map(told))
        });
    }
    prompt
}

/// What an answer depends on: what else a prompt holds are hints for the engine.
fn told(prompt: Prompt) -> (Vec<Token>, Vec<String>) {
    (prompt.tokens, prompt.stop)
}

impl Asked {
    /// A prompt by the policy's own layout, as it would be built if it were live.
    pub(in crate::policy) async fn declare_and_build(
        &self,
        messages: &[Message],
    ) -> Option<Result<Prompt, RunError>> {
        match self.layout(None).await? {
            Ok((layout, instance)) => {
                self.ask_to_build(messages, &layout, Some(instance), None)
                    .await
            }
            Err(fault) => Some(Err(fault)),
        }
    }

    /// `question`: what to remember the answer under.
    pub(in crate::policy) async fn layout(
        &self,
        question: Option<Question>,
    ) -> Option<Result<(Layout, Instance), RunError>> {
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
            let request = self.request(&mut call.instance);
            let request = request.map_err(|e| call.instance.fault(&e))?;
            let layout = guest.call_declare(&mut call.instance.store, request).await;
            verified(layout.map_err(|e| call.instance.fault(&e))?, &self.facts)
        }
        .instrument(span)
        .await;
        self.keep(question, &call, &result);
        Some(match result {
            Ok(layout) => Ok((layout, call.keep(&Ok(())))),
            Err(fault) => {
                let result = Err(fault);
                call.end(&result);
                result
            }
        })
    }

    /// Asks for the plan, unless the prompt is remembered.
    async fn build_once(
        &self,
        kept: &[Message],
        layout: &Layout,
        instance: Option<Instance>,
    ) -> Option<Result<Prompt, RunError>> {
        let question = self.question(Ask::Build, |it| it.messages(kept));
        if let Some(prompt) = self.recall(Ask::Build, question.as_ref()) {
            return Some(Ok(prompt));
        }
        // Whoever builds has declared the layout first, also where that one is remembered.
        let instance = match (instance, question) {
            (None, Some(_)) => match self.layout(None).await? {
                Ok((_, instance)) => Some(instance),
                Err(fault) => return Some(Err(fault)),
            },
            (instance, _) => instance,
        };
        self.ask_to_build(kept, layout, instance, question).await
    }

    async fn ask_to_build(
        &self,
        kept: &[Message],
        layout: &Layout,
        instance: Option<Instance>,
        question: Option<Question>,
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
            let request = self.request(&mut call.instance);
            let request = request.map_err(|e| call.instance.fault(&e))?;
            let all = transcript(&mut call.instance, kept);
            let all = all.map_err(|e| call.instance.fault(&e))?;
            let store = &mut call.instance.store;
            let built = guest.call_build(store, request, all).await;
            let plan = call.instance.flatten(built)?;
            let room = self
                .facts
                .context
                .saturating_sub(self.facts.reserved_output);
            encode(&self.shared.pieces, kept, &plan, layout, room)
        }
        .instrument(span)
        .await;
        self.keep(question, &call, &result);
        call.end(&result);
        Some(result)
    }
}

fn verified(layout: wit::Layout, facts: &Facts) -> Result<Layout, RunError> {
    bounded("reserved", &layout.reserved)?;
    // Long answers that a client asks for are not the layout's fault.
    let answer = facts.reserved_output.min(facts.context / 4);
    let room = facts.context.saturating_sub(answer);
    let needed = layout.fixed.saturating_add(layout.per_message);
    if needed >= room {
        return Err(RunError::BadResult(format!(
            "its layout alone takes {needed} tokens, and a prompt may have {room}"
        )));
    }
    Ok(Layout {
        fixed: layout.fixed,
        per_message: layout.per_message,
        reserved: layout.reserved.into(),
    })
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
    } = join(&shared.pieces, &pieces, stable_pieces, reserved);
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
