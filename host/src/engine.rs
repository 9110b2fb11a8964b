//! The engine: a thread of its own that owns the model and decodes all running requests in one
//! batch. Everything outside talks to it through [`Engine`].
//!
//! Only `engine/llama*.rs` and `engine/cpu*.rs` know llama.cpp; `engine/scheduler*.rs` decides
//! without it, so that its properties can be tested without a model.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

pub mod settings;

// Public for the micro benchmarks alone.
#[doc(hidden)]
pub mod sampling;
#[doc(hidden)]
pub mod scheduler;

mod worker;

mod llama;
mod scripted;
mod upstream;

mod gguf;
mod likely;
mod text;
mod weights;

pub mod cpu;
mod gpu;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod kernels;
pub mod memory;
pub mod threads;

pub mod shape;

pub use gguf::Header;
pub use settings::{Kind, Settings};
pub use upstream::look as look_at_upstreams;
pub use upstream::settings::Target;

use crate::types::{
    Finish, Logprob, Message, ModelInfo, Sampling, SessionKey, SlotPermit, TenantId, Token,
    Tokenizer,
};

/// The GBNF text of a JSON schema, for [`crate::types::Sampling::grammar`].
///
/// # Errors
/// What llama.cpp finds wrong with the schema.
pub fn grammar_from_schema(schema: &str) -> Result<String, String> {
    llama::grammar_from_schema(schema)
}

/// The version that llama.cpp gives of itself, such as "0.6.0".
pub fn llama_version() -> String {
    llama::version()
}

/// The seam between the gateway and whatever produces tokens: llama.cpp in this process, a
/// script for tests, or a remote server.
pub trait Engine: Send + Sync {
    fn model(&self) -> &ModelInfo;
    fn tokenizer(&self) -> Arc<dyn Tokenizer>;
    /// Whether answers can be drawn in this way.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] for a grammar that the engine cannot follow, and
    /// [`EngineError::Logprobs`] where it knows no probabilities.
    fn check(&self, how: &Sampling) -> Result<(), EngineError>;
    /// Queues the job and returns at once. Dropping [`Running`] cancels the work within one step.
    fn submit(&self, job: Job, permit: SlotPermit) -> Running;
    /// The tokens with which the session's next prompt will start: worth computing while nothing
    /// else is to be done. A hint; may be ignored.
    fn prepare(&self, session: &SessionKey, tokens: Arc<[Token]>);
    /// The session is forgotten: so is its KV.
    fn forget(&self, session: &SessionKey);
    fn status(&self) -> Status;
    /// Gives up what only saves time: the KV of sessions that wait in RAM.
    fn shed(&self) {}
    /// False when nothing short of a new process helps.
    fn alive(&self) -> bool {
        true
    }
    /// `gen_ai.provider.name` of its spans.
    fn provider(&self) -> &'static str {
        "llama_cpp"
    }
}

/// Loads what the settings name and starts its thread. Blocks while a model loads.
///
/// `data` is the folder in which the working CPU code is remembered, so that a second start
/// need not try it out again.
pub fn start(settings: &Settings, data: &Path) -> Result<Arc<dyn Engine>, StartError> {
    settings.validate().map_err(StartError::Settings)?;
    match settings.kind {
        Kind::Llama => llama::start(settings, data),
        Kind::Scripted => scripted::start(settings),
        Kind::Openai => upstream::start(settings),
    }
}

/// What a model file says of itself.
///
/// # Errors
/// When it is missing, damaged or no GGUF file.
pub fn header(file: &Path) -> Result<Header, StartError> {
    Ok(gguf::read(file)?)
}

/// What can be known to fail before anything is loaded: the settings, the model file's header, a KV
/// cache that is larger than the machine's RAM.
///
/// # Errors
/// The same as [`start`] would give, or would be killed for.
pub fn check(settings: &Settings) -> Result<(), StartError> {
    settings.validate().map_err(StartError::Settings)?;
    if settings.kind != Kind::Llama {
        return Ok(());
    }
    let header = gguf::read(&settings.model)?;
    let needed = header
        .kv_bytes
        .map(|cell| cell.saturating_mul(u64::from(settings.cells())));
    match (needed, memory::total()) {
        (Some(needed), Some(ram)) if needed > ram => Err(StartError::Settings(format!(
            "{}: the KV cache of {} cells would take {} MiB, this machine has {} MiB of RAM",
            match settings.kv_cells {
                0 => format!(
                    "engine.n_ctx: {} for {} slots",
                    settings.n_ctx, settings.slots
                ),
                _ => "engine.kv_cells".into(),
            },
            settings.cells(),
            needed >> 20,
            ram >> 20,
        ))),
        _ => Ok(()),
    }
}

/// The tokenizer of what the settings name, without weights, context or thread: for tools that
/// generate nothing.
///
/// # Errors
/// As [`start`]; weights that are missing or damaged go unnoticed.
pub fn tokenizer(settings: &Settings) -> Result<Arc<dyn Tokenizer>, StartError> {
    match settings.kind {
        Kind::Llama => llama::tokenizer(&settings.model),
        Kind::Scripted => Ok(scripted::tokenizer(settings)),
        Kind::Openai => upstream::tokenizer(settings),
    }
}

/// Why no engine could be started: one sentence that names the key or the file.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Settings(String),
    #[error(transparent)]
    Model(#[from] gguf::GgufError),
    #[error("engine.model: llama.cpp cannot load {path}: {reason}")]
    Load { path: String, reason: String },
    #[error("engine: no context of {cells} KV cells for {path}: {reason}")]
    Context {
        path: String,
        cells: u32,
        reason: String,
    },
    #[error("engine: {0}")]
    Cpu(#[from] cpu::CpuError),
    #[error("engine: cannot start its thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    /// The model file is not there (yet).
    pub fn is_missing_model(&self) -> bool {
        matches!(self, Self::Model(gguf::GgufError::Open { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// One generation to run.
#[derive(Clone)]
pub struct Job {
    /// Whose usage of the engine it counts as.
    pub tenant: TenantId,
    /// Whose KV may be reused; `None`: nobody's, and nothing is kept.
    pub session: Option<SessionKey>,
    pub prompt: Arc<[Token]>,
    /// How many tokens at the start of `prompt` are the operator's own (the system text), the same
    /// for everybody: their KV is stored once and shared. 0: nothing is shared.
    pub head: u32,
    /// What the prompt was built from, without what means something to its layout: for servers that
    /// build it themselves.
    pub messages: Vec<Message>,
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
    Queued {
        position: usize,
    },
    /// Has a slot; `cached` prompt tokens need no computing.
    Started {
        slot: usize,
        cached: u32,
    },
    /// Whole characters, in order, with the ids they came from, and how likely those were where
    /// that is asked for.
    Text {
        text: String,
        tokens: Vec<Token>,
        logprobs: Vec<Logprob>,
    },
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
    #[error(
        "the prompt's {prompt} tokens and {output} for the answer exceed the context of {context}"
    )]
    TooLong {
        prompt: u32,
        output: u32,
        context: u32,
    },
    #[error("the engine failed in a decode step: {0}")]
    Decode(String),
    #[error("the grammar cannot be used: {0}")]
    Grammar(String),
    /// Probabilities were asked of an engine that cannot tell them.
    #[error("found true, expected false: {0}")]
    Logprobs(&'static str),
    #[error("slot {slot} made no progress for {stalled:?} and was reclaimed")]
    Stalled { slot: usize, stalled: Duration },
    /// The last upstream that was tried, and what it did.
    #[error("the upstream {upstream} failed: {problem}")]
    Upstream { upstream: String, problem: String },
    #[error("no upstream can be used right now")]
    NoUpstream,
    #[error("the engine has stopped")]
    Stopped,
    /// Another host computed the answer and is gone, and what it had said cannot be continued here.
    #[error("the host that gave this answer was lost in the middle of it; ask again")]
    Abandoned,
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
    pub totals: Totals,
    /// The servers behind kind "openai".
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<UpstreamStatus>,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct UpstreamStatus {
    /// Without user and password.
    pub url: String,
    /// Gets requests: its health check and its circuit say so.
    pub healthy: bool,
    /// `closed`, `open` or `trial`.
    pub circuit: &'static str,
    /// What its last health check found wrong.
    pub problem: Option<String>,
    pub outstanding: u32,
    pub requests: u64,
    pub failures: u64,
}

/// What the engine has done since its start; only ever rises, but for the `parked` gauges.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Totals {
    pub steps: u64,
    /// Prompt tokens computed.
    pub prefilled: u64,
    /// Prompt tokens whose KV was there already.
    pub reused: u64,
    pub generated: u64,
    /// Prompt tokens computed ahead of their request, in idle gaps.
    pub prepared: u64,
    /// Guessed tokens that were tried, and those that were right.
    pub drafted: u64,
    pub draft_hits: u64,
    pub parks: u64,
    pub restores: u64,
    /// Sessions whose KV waits in RAM, and its size.
    pub parked_sessions: u64,
    pub parked_bytes: u64,
    /// Bytes of the model that are locked in RAM; 0 when locking failed or was not asked for.
    pub locked_bytes: u64,
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
