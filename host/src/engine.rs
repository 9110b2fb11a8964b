//! The engine: a thread of its own that owns the model and decodes all running requests in one
//! batch. Everything outside talks to it through [`Engine`].
//!
//! Only `engine/llama*.rs` knows llama.cpp; `engine/scheduler*.rs` decides without it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

pub mod shape;

use crate::types::{Finish, ModelInfo, Sampling, SessionKey, SlotPermit, Token, Tokenizer};

/// The seam between the gateway and whatever produces tokens: llama.cpp in this process, a
/// script for tests, later a remote server.
pub trait Engine: Send + Sync {
    fn model(&self) -> &ModelInfo;
    fn tokenizer(&self) -> Arc<dyn Tokenizer>;
    /// Queues the job and returns at once. Dropping [`Running`] cancels the work within one step.
    fn submit(&self, job: Job, permit: SlotPermit) -> Running;
    /// The tokens with which the session's next prompt will start: worth computing while nothing
    /// else is to be done. A hint; may be ignored.
    fn prepare(&self, session: &SessionKey, tokens: Arc<[Token]>);
    /// The session is forgotten: so is its KV.
    fn forget(&self, session: &SessionKey);
    fn status(&self) -> Status;
}

/// One generation to run.
pub struct Job {
    /// Whose KV may be reused; `None`: nobody's, and nothing is kept.
    pub session: Option<SessionKey>,
    pub prompt: Arc<[Token]>,
    pub sampling: Sampling,
    pub max_tokens: u32,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// The `chat` span: `queue.wait` has its parent, `prefill` and `decode` are its children.
    pub span: tracing::Span,
}

/// A submitted job. The last event is always `Finished` or `Failed`.
pub struct Running {
    pub events: mpsc::UnboundedReceiver<Event>,
    /// Dropped with the receiver: the worker looks at it between steps.
    pub cancel: tokio_util::sync::DropGuard,
}

#[derive(Debug)]
pub enum Event {
    /// Waiting behind `position` others.
    Queued { position: usize },
    /// Has a slot; `cached` prompt tokens need no computing.
    Started { slot: usize, cached: u32 },
    /// Whole characters, in order, with the ids they came from.
    Text { text: String, tokens: Vec<Token> },
    Finished(Outcome),
    Failed(EngineError),
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub finish: Finish,
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub output_tokens: u32,
    pub queued: Duration,
    pub prefill: Duration,
    pub decode: Duration,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the prompt's {prompt} tokens and {output} for the answer exceed the context of {context}")]
    TooLong { prompt: u32, output: u32, context: u32 },
    #[error("the engine failed in a decode step: {0}")]
    Decode(String),
    #[error("slot {slot} made no progress for {stalled:?} and was reclaimed")]
    Stalled { slot: usize, stalled: Duration },
    #[error("the engine has stopped")]
    Stopped,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct Status {
    /// False while a slot is stalled or the engine has stopped.
    pub ready: bool,
    pub reason: Option<String>,
    pub slots: Vec<SlotStatus>,
    pub queued: usize,
    pub kv_cells_used: u32,
    pub kv_cells: u32,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct SlotStatus {
    pub slot: usize,
    /// `idle`, `prefill` or `decode`.
    pub state: &'static str,
    /// First 8 hex digits of a digest of tenant and session; never the id.
    pub session: Option<String>,
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub output_tokens: u32,
    pub tokens_per_second: f32,
}
