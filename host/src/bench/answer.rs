//! An answer, put together from the chunks of a stream.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::client::AskError;

/// An answer that came to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    pub sent: Instant,
    /// When each piece of text came; never empty.
    pub pieces: Vec<Instant>,
    /// `[DONE]` was read.
    pub ended: Instant,
    pub text: String,
    pub finish: Option<String>,
    /// What the server counted, if it did.
    pub usage: Option<Usage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
}

impl Answer {
    /// From sending the request to the first text.
    pub fn first(&self) -> Duration {
        self.pieces[0] - self.sent
    }

    pub fn last_piece(&self) -> Instant {
        self.pieces[self.pieces.len() - 1]
    }

    /// Generated tokens: the server's count, or one for each piece where it gives none.
    pub fn tokens(&self) -> u32 {
        let pieces = u32::try_from(self.pieces.len()).unwrap_or(u32::MAX);
        self.usage.map_or(pieces, |usage| usage.completion_tokens)
    }

    /// Tokens for each piece: 1 where every token is sent alone.
    pub fn tokens_per_piece(&self) -> f64 {
        f64::from(self.tokens()) / self.pieces.len() as f64
    }
}

/// A frame of the stream: a chunk, or an error after the head.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
}

/// What a frame brought.
pub(super) enum Step {
    Text,
    Other,
    Done,
}

/// An answer on its way.
pub(super) struct Reading {
    sent: Instant,
    pub(super) pieces: Vec<Instant>,
    text: String,
    finish: Option<String>,
    usage: Option<Usage>,
}

impl Reading {
    pub(super) fn new(sent: Instant) -> Self {
        Self {
            sent,
            pieces: Vec::new(),
            text: String::new(),
            finish: None,
            usage: None,
        }
    }

    pub(super) fn take(&mut self, frame: &str, now: Instant) -> Result<Step, AskError> {
        if frame == "[DONE]" {
            return Ok(Step::Done);
        }
        let chunk: Chunk = serde_json::from_str(frame).map_err(|error| AskError::Chunk {
            found: frame.chars().take(80).collect(),
            reason: error.to_string(),
        })?;
        if let Some(error) = chunk.error {
            return Err(AskError::InStream(message_of(&error)));
        }
        self.usage = chunk.usage.or(self.usage);
        let Some(choice) = chunk.choices.into_iter().next() else {
            return Ok(Step::Other);
        };
        self.finish = choice.finish_reason.or(self.finish.take());
        match choice.delta.content {
            Some(text) if !text.is_empty() => {
                self.text.push_str(&text);
                self.pieces.push(now);
                Ok(Step::Text)
            }
            _ => Ok(Step::Other),
        }
    }

    pub(super) fn finish(self, ended: Instant) -> Result<Answer, AskError> {
        if self.pieces.is_empty() {
            return Err(AskError::Empty);
        }
        Ok(Answer {
            sent: self.sent,
            pieces: self.pieces,
            ended,
            text: self.text,
            finish: self.finish,
            usage: self.usage,
        })
    }
}

/// The text of OpenAI's error object, or the object itself where it has none.
pub(super) fn message_of(error: &serde_json::Value) -> String {
    match error["message"].as_str() {
        Some(message) => message.to_owned(),
        None => error.to_string(),
    }
}
