//! From a dropped file to the live generation: one reconciler thread. (Signatures are settled.)

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use super::settings::Settings;
use super::stages::Snapshot;
use super::types::{Facts, Hook, Observer, PolicyList};
use crate::types::Tokenizer;

/// What the policies need from the rest of the gateway.
pub struct Surroundings {
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Revisions, compiled code and the audit log live in `policies/` below it.
    pub data_dir: PathBuf,
    pub observer: Arc<dyn Observer>,
    /// The program that compiles in a child process when called with `__compile`; the running
    /// one by default.
    pub compiler: Option<PathBuf>,
}

#[derive(Debug, Error)]
pub enum PolicyError {
    #[error("{0}")]
    Settings(String),
    #[error("no {hook} policy can be rolled back to: {reason}")]
    NoRollback { hook: Hook, reason: String },
}

/// The policies of this process: engine, ticker, warm pools, reconciler.
pub struct Policies(());

impl Policies {
    /// Loads what the folder and the history hold; blocks for as long as that compiles.
    pub fn start(settings: Settings, around: Surroundings) -> Result<Arc<Self>, PolicyError> { todo!() }
    /// Pins the current generation for one request.
    pub fn snapshot(&self, facts: Facts) -> Snapshot { todo!() }
    /// Why requests should not be sent here yet: a required hook without its policy.
    pub fn ready(&self) -> Result<(), String> { todo!() }
    pub fn list(&self) -> PolicyList { todo!() }
    pub fn generation(&self) -> u64 { todo!() }
    /// Generations that some request still pins, the current one included.
    pub fn live_generations(&self) -> usize { todo!() }
    /// Standing troubles, one sentence each (folder gone, breaker tripped).
    pub fn alarms(&self) -> Vec<String> { todo!() }
    /// Looks at the folder now and returns when what it found is live or rejected.
    pub async fn reload(&self) -> PolicyList { todo!() }
    /// Takes the hook back to its last revision but one.
    pub async fn rollback(&self, hook: Hook) -> Result<PolicyList, PolicyError> { todo!() }
}
