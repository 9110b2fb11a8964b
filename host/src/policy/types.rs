//! What the stages of the chat path hand to policies and get back.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::{Finish, Message, TenantId, Token};

/// A place in a request's path where a policy decides. The order is the path's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    Guard,
    Trim,
    Prompt,
    Cache,
    Filter,
}

/// What is known about one request; the same for all of its policy calls.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// The model's name, as clients see it.
    pub model: Arc<str>,
    /// Milliseconds since the Unix epoch, fixed for the whole request.
    pub now_ms: u64,
    /// Tokens that prompt and answer share.
    pub context: u32,
    /// Tokens of `context` kept free for the answer.
    pub reserved_output: u32,
    /// Whether the client reads the answer as it is produced.
    pub streaming: bool,
    /// Attributes that the operator chose to show to policies. Never a raw identity.
    pub attributes: Vec<(String, String)>,
    /// Whose request it is. Policies are not told; nothing about it is remembered for another.
    #[serde(skip)]
    pub tenant: TenantId,
}

/// What a prompt holds beside the messages, as the prompt builder says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Tokens that every prompt has, at most.
    pub fixed: u32,
    /// Tokens that each kept message adds beside its own, at most.
    pub per_message: u32,
    /// Strings to neutralise in every text from outside, before it is tokenised.
    pub reserved: Arc<[String]>,
}

/// The guard's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Allow,
    /// This text takes the message's place, in the history too.
    Rewrite(String),
    /// The user is answered with this text; the model is not asked.
    Reply(String),
    /// The request is refused with this reason, which the user reads.
    Refuse(String),
}

/// Which messages stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trimmed {
    /// Indices into the messages that were given, rising.
    pub kept: Vec<usize>,
    /// Id of the first unpinned message kept: give it back as `previous_first` next time.
    pub first: Option<u64>,
    /// How many messages were left out.
    pub dropped: usize,
}

/// A prompt ready for the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    pub tokens: Vec<Token>,
    /// How many leading tokens the session's next prompt will probably start with.
    pub stable: usize,
    /// How many leading tokens are the operator's own, before the first message: the same in
    /// every prompt of this policy.
    pub head: usize,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
}

/// Who may meet a cached answer again, narrowest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    #[default]
    Session,
    Tenant,
    Shared,
}

/// Whether an answer may come from the cache, and under which key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lookup {
    /// Neither look up nor store.
    Bypass,
    By(CacheKey),
}

/// The policy's part of a key. The gateway adds tenant, scope id, model, sampling and
/// [`Snapshot::identity`](super::Snapshot::identity).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheKey {
    pub basis: Basis,
    /// Never wider than the operator's grant.
    pub scope: Scope,
    /// An older answer is not used.
    pub max_age: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The final prompt's tokens: look up after `build`.
    ExactPrompt,
    /// These strings, at least one of them not empty: look up before `trim`.
    Parts(Vec<String>),
}

/// How an answer came out, for `cache_admit`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct AnswerOutcome {
    pub finish: Finish,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    pub elapsed: Duration,
}

/// What the output filter makes of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// For the client, now; empty where everything is held back.
    Emit(String),
    /// Last words; the answer ends here as [`Finish::Filtered`] and the filter is not asked again.
    Stop { emit: String, reason: String },
}

/// Everything an operator sees of the policies: one entry for each hook, shadow and rejected file.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct PolicyList(pub Vec<Listed>);

#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// `None` for a rejected file whose exports could not be read.
    pub hook: Option<Hook>,
    pub name: String,
    pub version: String,
    /// Hex digest of the file as it lies in the folder; empty for native defaults.
    pub sha256: String,
    /// Number in the hook's own history, from 1; 0 for what never served.
    pub revision: u64,
    /// The generation in which it began to serve.
    pub generation: u64,
    pub state: State,
    /// The file it came from; `None` for built-in policies.
    pub file: Option<PathBuf>,
    /// Where the pipeline stopped (`rejected` and `pending`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Why, in one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// From the policies folder or the history, serving.
    Live,
    /// Bundled with the gateway, or native code, serving.
    Builtin,
    /// Runs beside the live policy without touching answers.
    Shadow,
    /// Seen, not yet settled.
    Pending,
    Compiling,
    /// Kept out until it is removed or replaced.
    Rejected,
}

/// Hears of calls and reloads as they end; the metrics implement it. Methods must not block.
pub trait Observer: Send + Sync {
    fn called(&self, call: &CallFacts<'_>) {
        let _ = call;
    }
    /// What a live policy decided before is used again: it was not called.
    fn remembered(&self, hook: Hook) {
        let _ = hook;
    }
    /// No instance of a live policy was warm: a call waits until one is made.
    fn cold(&self, hook: Hook) {
        let _ = hook;
    }
    /// A live policy failed, in a call or for want of an instance.
    fn faulted(&self, fault: &FaultFacts<'_>) {
        let _ = fault;
    }
    /// An output filter ended an answer.
    fn stopped(&self, stop: &StopFacts<'_>) {
        let _ = stop;
    }
    /// A shadow was asked what the live policy was asked.
    fn compared(&self, shadow: &ShadowFacts<'_>) {
        let _ = shadow;
    }
    fn reloaded(&self, reload: &ReloadFacts) {
        let _ = reload;
    }
}

/// One policy call, ended.
#[derive(Clone, Copy, Debug)]
pub struct CallFacts<'a> {
    pub hook: Hook,
    pub policy: &'a str,
    /// `ok`, or the fault's kind: `deadline`, `memory`, `stack`, `trap`, `bad-result`, `refused`,
    /// `exhausted`.
    pub outcome: &'static str,
    pub elapsed: Duration,
    /// The most memory that the instance had so far, in bytes.
    pub memory_peak: usize,
    /// What the call burnt, on a workbench that counts it; else 0.
    pub fuel: u64,
    /// False for a shadow's calls and those of golden cases: no request depends on them.
    pub live: bool,
}

/// One fault of a live policy.
#[derive(Clone, Copy, Debug)]
pub struct FaultFacts<'a> {
    pub hook: Hook,
    pub policy: &'a str,
    /// As [`CallFacts::outcome`].
    pub kind: &'static str,
}

/// One answer that an output filter ended.
#[derive(Clone, Copy, Debug)]
pub struct StopFacts<'a> {
    pub policy: &'a str,
    /// The policy's own short word; `unnamed` where it gave none.
    pub reason: &'a str,
}

/// One answer of a shadow.
#[derive(Clone, Copy, Debug)]
pub struct ShadowFacts<'a> {
    pub hook: Hook,
    pub policy: &'a str,
    /// Compared with the live policy's: `same` or `different`; `failed` for a fault, `skipped`
    /// where too many were under way.
    pub result: &'static str,
}

/// One reload, ended.
#[derive(Clone, Copy, Debug)]
pub struct ReloadFacts {
    pub hook: Option<Hook>,
    /// `swapped`, `rejected`, `removed`, `rolled-back`, `promoted`, `configured`, `shadowed` or
    /// `unshadowed`.
    pub result: &'static str,
    /// The stage that failed; empty for success.
    pub stage: &'static str,
    pub generation: u64,
    /// How long the one store took that made it live; zero for a rejection.
    pub stored: Duration,
}

impl Hook {
    pub const ALL: [Hook; 5] = [
        Hook::Guard,
        Hook::Trim,
        Hook::Prompt,
        Hook::Cache,
        Hook::Filter,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Hook::Guard => "guard",
            Hook::Trim => "trim",
            Hook::Prompt => "prompt",
            Hook::Cache => "cache",
            Hook::Filter => "filter",
        }
    }

    /// Whether it is there to see every text before somebody else does.
    pub(super) fn watches_text(self) -> bool {
        matches!(self, Hook::Guard | Hook::Filter)
    }

    /// The WIT interface that a component exports to serve this hook.
    pub fn interface(self) -> &'static str {
        match self {
            Hook::Guard => "guard",
            Hook::Trim => "session-trimmer",
            Hook::Prompt => "prompt-builder",
            Hook::Cache => "cache",
            Hook::Filter => "output-filter",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Scope {
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Session => "session",
            Scope::Tenant => "tenant",
            Scope::Shared => "shared",
        }
    }
}

impl Trimmed {
    /// The kept messages, in order.
    pub fn of(&self, messages: &[Message]) -> Vec<Message> {
        self.kept
            .iter()
            .filter_map(|&at| messages.get(at).cloned())
            .collect()
    }
}
