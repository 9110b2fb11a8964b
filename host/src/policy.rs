//! The policy host: decisions taken by WebAssembly components, pinned to a generation.
//!
//! A request takes one [`Snapshot`] and asks it, in this order:
//!
//! ```text
//! let policies = state.policies.snapshot(facts, span);   // one generation until the last byte
//! let layout = policies.layout().await?;                 // reserved strings, tokens of the layout
//! let text = neutralise(&message, &layout.reserved);     // before it is tokenised
//! match policies.guard(&messages).await? { .. }          // allow | rewrite | reply | refuse
//! let lookup = policies.cache_decide(&messages).await?;  // bypass | by(parts or the exact prompt)
//! let trimmed = policies.trim(&messages, session.previous_first).await?;
//! let kept: Vec<Message> = trimmed.of(&messages);
//! let prompt = policies.build(&kept).await?;             // tokens, stable prefix, stop texts
//! let mut filter = policies.open_filter().await?;        // push(chunk)*, finish(why)
//! let ttl = policies.cache_admit(&messages, &answer, outcome).await;
//! ```
//!
//! `messages` are the session's messages and the new one, oldest first, the new one last.
//!
//! No call panics. A guest's fault (trap, deadline, memory, a result that the host cannot
//! accept) is never its decision: the instance is thrown away, the fault is counted and written
//! on the call's span, and then the built-in default decides (`fail = "open"`) or the request is
//! refused (`fail = "closed"`, [`Denied::Refused`]). Results are verified before they are acted
//! on: ids exist and rise, pinned messages and the newest one are kept, tokens are counted again.
//!
//! Only the modules under `policy/` know wasmtime.

pub use audit::Change;
pub use bindings::v0_1::VERSION;
pub use cases::{CaseOutcome, CaseReport};
pub use compile::compile_child_main;
pub use fault::{Denied, RunError};
pub use history::Entry;
pub use measure::{Figures, Speed, Unmeasured};
pub use neutral::neutralise;
pub use policies::{Policies, PolicyError, Surroundings};
pub use replay::{Compared, Difference, Replay};
pub use settings::{Breaker, Fail, HookSettings, Limits, Settings};
pub use stage::{Rejection, Stage};
pub use stages::{Filter, Snapshot};
pub use types::{
    AnswerOutcome, Basis, CacheKey, CallFacts, Facts, FaultFacts, Hook, Layout, Listed, Lookup,
    Observer, PolicyList, Prompt, ReloadFacts, Scope, ShadowFacts, State, Step, StopFacts, Trimmed,
    Verdict,
};
pub use workbench::{Draft, Served, Workbench};

mod attributes;
mod settings;
mod types;

mod policies;
mod stages;

mod budget;
mod call;
mod fault;
mod native;
mod neutral;
mod quoting;
mod recording;
mod remembered;

mod generation;
mod guest;
mod host;
mod pool;
mod runtime;

mod bindings;
mod bundled;

mod audit;
mod breaker;
mod cases;
mod checks;
mod compile;
mod folder;
mod history;
mod inspect;
mod probe;
mod reload;
mod shadow;
mod signature;
mod stage;
mod told;
mod upload;
mod words;

mod measure;
mod replay;
mod workbench;
