//! What an answered question leaves behind: the exchange in the session, the answer in the cache,
//! and a head start for the next question.

use std::sync::Arc;

use super::turn::Turn;
use crate::cache::Cached;
use crate::engine::Outcome as Run;
use crate::error::Error;
use crate::policy::{AnswerOutcome, Hook, Lookup, Prompt};
use crate::session::Exchange;
use crate::trace::spans;
use crate::types::{Message, Role, Special, Token};

/// Adds the exchange to the session. When this returns, it is where the store promises it to be:
/// only then is the client told that the answer is finished.
pub async fn remember(
    turn: &mut Turn,
    text: &str,
    tokens: &[Token],
    first_kept: Option<u64>,
) -> Result<(), Error> {
    let (Some(writer), Some(question)) = (turn.writer.take(), turn.messages.last().cloned()) else {
        return Ok(());
    };
    let sessions = &turn.gateway.sessions;
    let answer = Message {
        id: question.id + 1,
        role: Role::Assistant,
        text: text.into(),
        tokens: answer_tokens(turn, text, tokens),
        pinned: false,
        exchange: question.exchange,
    };
    let span = spans::session_append(&turn.ask.span);
    turn.messages.push(answer.clone());
    let anchor = first_kept.or(turn.anchor);
    let model = turn.gateway.engine.model().fingerprint.as_str().into();
    let exchange = Exchange {
        question,
        answer,
        anchor,
        model,
    };
    match sessions.append(writer, exchange).await {
        Ok(kept) => {
            spans::turns(&span, turn.messages.len() / 2);
            turn.told_sessions("append", &span, kept.place, kept.result);
            Ok(())
        }
        Err(error) => {
            turn.told_session_error("append", &span, &error);
            Err(error.into())
        }
    }
}

/// The ids that the model produced, where they say what the client saw: text that a stop
/// sequence or a filter changed, or that holds a reserved string, is tokenised anew.
fn answer_tokens(turn: &Turn, text: &str, tokens: &[Token]) -> Arc<[Token]> {
    let tokenizer = turn.gateway.engine.tokenizer();
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|&token| tokenizer.bytes(token))
        .collect();
    let said = bytes.strip_prefix(b" ").unwrap_or(&bytes);
    if said == text.as_bytes() && !turn.reserves(text) {
        tokens.into()
    } else {
        turn.encode(text)
    }
}

/// Asks the cache policy whether the finished answer may be kept.
pub async fn admit_to_cache(
    turn: &mut Turn,
    (lookup, prompt): (&Lookup, &Prompt),
    (text, tokens): (&str, &[Token]),
    (run, dropped): (&Run, usize),
) {
    // What took a failed policy's place made another answer than its identity says.
    if turn.policies.faulted() {
        return;
    }
    let exact = turn.cache_key(lookup, Some(prompt));
    let asked = exact.or_else(|| turn.cache_key(lookup, None));
    // Whoever waited for a server in trouble does not wait again.
    let Some((key, _)) = asked.filter(|_| !turn.store_failed()) else {
        return;
    };
    let outcome = AnswerOutcome {
        finish: run.finish,
        prompt_tokens: run.prompt_tokens,
        output_tokens: run.output_tokens,
        elapsed: turn.elapsed(),
    };
    // The policy sees the conversation as it was when it decided to look up.
    let asked = without_answer(&turn.messages);
    let Some(ttl) = turn.policies.cache_admit(asked, text, outcome).await else {
        return;
    };
    let store = turn.gateway.cache.store_name();
    let span = spans::cache_store(&turn.ask.span, store, text.len());
    let answer = Cached {
        text: text.into(),
        tokens: tokens.into(),
        finish: run.finish,
        prompt_tokens: run.prompt_tokens,
        output_tokens: run.output_tokens,
        dropped: u32::try_from(dropped).unwrap_or(u32::MAX),
    };
    let done = turn.gateway.cache.store(key, answer, ttl).await;
    turn.told_store("store", &span, done);
}

/// The conversation up to the question.
pub fn without_answer(messages: &[Message]) -> &[Message] {
    match messages.split_last() {
        Some((last, asked)) if last.role == Role::Assistant => asked,
        _ => messages,
    }
}

/// Tells the engine what the session's next prompt will start with, so that it can be computed
/// while nobody waits. The policies themselves say it: they build the prompt of two made-up next
/// questions, and what both have in common is sure.
///
/// Where it does not go on from `asked`, this turn's prompt, its KV is lost: a prefix break, which
/// is counted for the policy that moved the beginning.
pub async fn foresee(turn: &mut Turn, asked: &[Token]) {
    let (Some(key), Some(last)) = (turn.key(), turn.messages.last().cloned()) else {
        return;
    };
    // The answer is told: its trace does not wait for this.
    turn.policies = turn.policies.aside();
    turn.ask.span = tracing::Span::none();
    let mut prompts = Vec::with_capacity(2);
    for placeholder in ["a", "1"] {
        let tokens: Arc<[Token]> = turn
            .gateway
            .engine
            .tokenizer()
            .encode(placeholder, Special::AsText)
            .into();
        turn.messages.push(Message {
            id: last.id + 1,
            role: Role::User,
            text: placeholder.into(),
            tokens,
            pinned: false,
            exchange: last.exchange + 1,
        });
        let built = next_prompt(turn).await;
        turn.messages.pop();
        match built {
            Some(tokens) => prompts.push(tokens),
            None => return,
        }
    }
    let [first, second] = prompts.as_slice() else {
        return;
    };
    let (first, cut) = first;
    let common = |a: &[Token], b: &[Token]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let Some(sure) = first.get(..common(first, &second.0)) else {
        return;
    };
    if common(sure, asked) < asked.len() {
        let hook = match *cut == turn.anchor {
            true => Hook::Prompt,
            false => Hook::Trim,
        };
        let (digest, _) = turn.policies.digest(hook);
        turn.gateway.metrics.prefix_break(hook.as_str(), digest);
    }
    if turn.forgotten() {
        return;
    }
    turn.gateway.engine.prepare(&key, sure.into());
    forget_too(turn);
}

/// Has the engine forget what this turn left there of a session that is forgotten meanwhile. Whoever
/// forgets a session marks it before the engine is told, so one of both comes after the work.
pub fn forget_too(turn: &Turn) {
    if let Some(key) = turn.key().filter(|_| turn.forgotten()) {
        turn.gateway.engine.forget(&key);
    }
}

/// The prompt, and the first message that trimming kept.
async fn next_prompt(turn: &Turn) -> Option<(Vec<Token>, Option<u64>)> {
    let trimmed = turn.policies.trim(&turn.messages, turn.anchor).await.ok()?;
    let prompt = turn
        .policies
        .build(&trimmed.of(&turn.messages))
        .await
        .ok()?;
    Some((prompt.tokens, trimmed.first.or(turn.anchor)))
}
