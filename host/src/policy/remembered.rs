//! Decisions that were taken before.
//!
//! A policy is a pure function, and the host sees to it that it cannot be anything else: a guest has
//! no clock, no randomness, and no memory of other requests. What it decided about a request and
//! these messages it would decide again, so it need not be asked again while that is remembered.
//!
//! Not remembered is what may come out differently or does more than decide: faults, calls that
//! read the time, and calls that wrote a line for the operator.

use std::time::Duration;

use moka::sync::Cache;
use sha2::{Digest, Sha256};

use super::call::Ask;
use super::stages::Asked;
use super::types::{Basis, Layout, Lookup, Prompt, Trimmed, Verdict};
use crate::types::{Message, Token};

/// Prompts are made of what people wrote: they do not stay longer than a conversation lasts.
const LIFETIME: Duration = Duration::from_secs(600);

/// The decisions of all policies, weighed in bytes.
pub(super) struct Memory(Option<Cache<Question, Decision>>);

/// sha256 over everything that a policy can see of a request, and over the policy itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Question([u8; 32]);

/// A question that is being put together.
pub(super) struct Asking(Sha256);

#[derive(Clone)]
pub(super) enum Decision {
    Layout(Layout),
    Verdict(Verdict),
    Lookup(Lookup),
    Trimmed(Trimmed),
    Prompt(Prompt),
}

/// What a hook decides.
pub(super) trait Decided: Clone {
    fn into_decision(self) -> Decision;
    fn of(decision: Decision) -> Option<Self>;
}

macro_rules! decided {
    ($($it:ident),*) => {$(
        impl Decided for $it {
            fn into_decision(self) -> Decision {
                Decision::$it(self)
            }
            fn of(decision: Decision) -> Option<Self> {
                match decision {
                    Decision::$it(it) => Some(it),
                    _ => None,
                }
            }
        }
    )*};
}
decided!(Layout, Verdict, Lookup, Trimmed, Prompt);

impl Memory {
    /// 0: nothing is remembered.
    pub(super) fn new(max_bytes: u64) -> Self {
        let weigh =
            |_: &Question, decision: &Decision| u32::try_from(decision.bytes()).unwrap_or(u32::MAX);
        let cache = || {
            Cache::builder()
                .max_capacity(max_bytes)
                .weigher(weigh)
                .time_to_live(LIFETIME)
                .build()
        };
        Self((max_bytes > 0).then(cache))
    }

    /// The question that is asked, where its answer may be remembered at all: not where native code
    /// decides, and not where nobody waits for the answer.
    pub(super) fn question(
        &self,
        asked: &Asked,
        ask: Ask,
        about: impl FnOnce(Asking) -> Asking,
    ) -> Option<Question> {
        let remembers = self.0.is_some() && asked.live && asked.revision.pool.is_some();
        remembers.then(|| {
            let asking = about(Asking::to(asked, ask));
            Question(asking.0.finalize().into())
        })
    }

    pub(super) fn recall<R: Decided>(&self, question: Option<&Question>) -> Option<R> {
        R::of(self.0.as_ref()?.get(question?)?)
    }

    pub(super) fn keep<R: Decided>(&self, question: Option<Question>, decision: &R) {
        if let (Some(cache), Some(question)) = (&self.0, question) {
            cache.insert(question, decision.clone().into_decision());
        }
    }
}

impl Asking {
    fn to(asked: &Asked, ask: Ask) -> Self {
        let (revision, facts) = (&asked.revision, &asked.facts);
        let mut it = Self(Sha256::new());
        for text in [
            ask.as_str(),
            &revision.sha256,
            &revision.config_digest,
            revision.granted.as_str(),
            facts.tenant.as_str(),
            &facts.model,
        ] {
            it = it.text(text);
        }
        for number in [
            u64::from(facts.context),
            u64::from(facts.reserved_output),
            u64::from(facts.streaming),
            facts.attributes.len() as u64,
        ] {
            it = it.number(number);
        }
        for (name, value) in &facts.attributes {
            it = it.text(name).text(value);
        }
        it
    }

    pub(super) fn number(mut self, number: u64) -> Self {
        self.0.update(number.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        let mut it = self.number(text.len() as u64);
        it.0.update(text);
        it
    }

    pub(super) fn messages(self, messages: &[Message]) -> Self {
        let mut it = self.number(messages.len() as u64);
        for message in messages {
            let role = message.role as u64;
            it = it
                .number(message.id)
                .number(role << 33 | u64::from(message.pinned) << 32 | u64::from(message.exchange))
                .text(&message.text)
                .number(message.tokens.len() as u64);
            for token in &*message.tokens {
                it.0.update(token.to_le_bytes());
            }
        }
        it
    }
}

impl Decision {
    fn bytes(&self) -> usize {
        const FIXED: usize = size_of::<Question>() + size_of::<Decision>() + 160;
        let texts = |texts: &[String]| texts.iter().map(|t| t.len() + size_of::<String>()).sum();
        FIXED
            + match self {
                Self::Layout(layout) => texts(&layout.reserved),
                Self::Verdict(Verdict::Allow) => 0,
                Self::Verdict(
                    Verdict::Rewrite(text) | Verdict::Reply(text) | Verdict::Refuse(text),
                ) => text.len(),
                Self::Lookup(Lookup::By(key)) => match &key.basis {
                    Basis::Parts(parts) => texts(parts),
                    Basis::ExactPrompt => 0,
                },
                Self::Lookup(Lookup::Bypass) => 0,
                Self::Trimmed(trimmed) => size_of_val(trimmed.kept.as_slice()),
                Self::Prompt(prompt) => {
                    prompt.tokens.len() * size_of::<Token>() + texts(&prompt.stop)
                }
            }
    }
}
