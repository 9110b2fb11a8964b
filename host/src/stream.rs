//! From the parts of an answer to bytes on the wire: the AI SDK's UI message stream for
//! `/chat/stream`, OpenAI's chunks for `/v1`, one JSON document for both.

mod channel;
pub mod openai;
mod recording;
mod sse;
pub mod ui;

use std::time::Duration;

pub use channel::{Parts, Reader, Undelivered, Whole, channel, collect, kept};
pub use recording::{Keep, Recording};
pub use sse::{count, sse};

use crate::error::Error;
use crate::types::{Finish, Logprob, SessionId};

/// One piece of an answer, in the order: `Queued*`, `Trimmed?`, `Text*`, then `Done` or `Failed`.
#[derive(Clone, Debug)]
pub enum Part {
    /// Place in the queue; 1 is the next to get a slot.
    Queued {
        position: usize,
    },
    /// So many messages of the history were left out.
    Trimmed {
        dropped: usize,
    },
    /// Whole characters.
    Text(String),
    /// The same, with how likely each of its tokens was. A token's text may have come before.
    Drawn {
        text: String,
        logprobs: Vec<Logprob>,
    },
    Done(Summary),
    Failed(Error),
}

/// What is told at the end of an answer.
#[derive(Clone, Debug)]
pub struct Summary {
    pub finish: Finish,
    pub trace_id: Option<String>,
    /// From the cache.
    pub cached: bool,
    /// Shared with an identical question that was running already.
    pub coalesced: bool,
    /// The policy generation that served it.
    pub generation: u64,
    /// From the request's arrival to its first text.
    pub ttft: Option<Duration>,
    pub prompt_tokens: u32,
    /// Prompt tokens that needed no computing.
    pub cached_tokens: u32,
    pub output_tokens: u32,
    pub tokens_per_second: f64,
}

/// What is known of an answer before its first part.
#[derive(Clone, Debug)]
pub struct Head {
    /// Unguessable; names the answer.
    pub id: String,
    pub session: Option<SessionId>,
    pub model: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
}

/// How an answer looks on one route.
pub trait Format: Send + 'static {
    /// Sent before the first part.
    fn head(&mut self, head: &Head) -> Vec<String>;
    /// The `data:` payloads of one part.
    fn part(&mut self, head: &Head, part: Part) -> Vec<String>;
}

/// Milliseconds with one decimal, as they are shown.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests;
