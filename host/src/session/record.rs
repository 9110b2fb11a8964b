//! One exchange as it is stored, and the history that a row of them is.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::types::{Message, Role, Token};

/// A question and its answer, as they go into the history: both or neither.
#[derive(Clone)]
pub struct Exchange {
    pub question: Message,
    pub answer: Message,
    /// The first message that trimming kept.
    pub anchor: Option<u64>,
    /// The model whose tokens the messages hold.
    pub model: Arc<str>,
}

/// An exchange in its session. The order of the fields is the stored format, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Number within the session, from 0, without gaps except where the oldest went.
    pub exchange: u32,
    /// When it was finished, in milliseconds since 1970.
    pub at_ms: u64,
    pub anchor: Option<u64>,
    /// Fingerprint of the model whose vocabulary `tokens` are of.
    pub model: Arc<str>,
    pub question: Text,
    pub answer: Text,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    pub role: Role,
    pub text: Arc<str>,
    pub tokens: Arc<[Token]>,
    pub pinned: bool,
}

/// A session's history as one request sees it.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Oldest first.
    pub messages: Vec<Message>,
    /// The first message that trimming kept the last time.
    pub anchor: Option<u64>,
    /// The exchanges, in their order.
    records: Vec<Arc<Record>>,
    next_exchange: u32,
}

impl Exchange {
    pub(super) fn into_record(self, exchange: u32) -> Record {
        let text = |message: Message| Text {
            role: message.role,
            text: message.text,
            tokens: message.tokens,
            pinned: message.pinned,
        };
        Record {
            exchange,
            at_ms: now_ms(),
            anchor: self.anchor,
            model: self.model,
            question: text(self.question),
            answer: text(self.answer),
        }
    }
}

impl Record {
    /// Bytes that it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        const FIXED: usize = size_of::<Record>() + 2 * 64;
        let text = |text: &Text| text.text.len() + text.tokens.len() * size_of::<Token>();
        FIXED + text(&self.question) + text(&self.answer)
    }

    /// The same exchange under another number.
    pub(super) fn renumbered(&self, exchange: u32) -> Self {
        Self {
            exchange,
            ..self.clone()
        }
    }

    fn messages(&self) -> [Message; 2] {
        let message = |id, text: &Text| Message {
            id,
            role: text.role,
            text: Arc::clone(&text.text),
            tokens: Arc::clone(&text.tokens),
            pinned: text.pinned,
            exchange: self.exchange,
        };
        // Two messages an exchange: their ids rise with its number and are never used twice.
        let first = u64::from(self.exchange) * 2;
        [
            message(first, &self.question),
            message(first + 1, &self.answer),
        ]
    }
}

impl Session {
    pub(super) fn of(records: &[Arc<Record>]) -> Self {
        Self {
            messages: records.iter().flat_map(|r| r.messages()).collect(),
            anchor: records.last().and_then(|r| r.anchor),
            records: records.to_vec(),
            next_exchange: records.last().map_or(0, |r| r.exchange + 1),
        }
    }

    /// Id and exchange number for the next message.
    pub fn next(&self) -> (u64, u32) {
        (u64::from(self.next_exchange) * 2, self.next_exchange)
    }

    /// What was asked last.
    pub fn last_question(&self) -> Option<&str> {
        self.records.last().map(|record| &*record.question.text)
    }

    /// The session as it was before its last exchange, whose number comes next again.
    pub(super) fn without_last(&self) -> Option<Self> {
        let (last, before) = self.records.split_last()?;
        Some(Self {
            next_exchange: last.exchange,
            ..Self::of(before)
        })
    }

    /// The messages, each with whether its tokens are those of `model`'s vocabulary: a store may
    /// have been written under another model.
    pub fn messages_for(&self, model: &str) -> impl Iterator<Item = (&Message, bool)> {
        let known = self.records.iter();
        let known = known.flat_map(move |record| [&*record.model == model; 2]);
        self.messages.iter().zip(known)
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
