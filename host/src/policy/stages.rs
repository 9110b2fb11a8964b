//! The stages of a request, each one policy call with its verification and its fallback.
//!
//! (Bodies follow; signatures are settled.)

use std::sync::Arc;
use std::time::Duration;

use super::fault::Denied;
use super::types::{AnswerOutcome, Facts, Layout, Lookup, Prompt, Step, Trimmed, Verdict};
use crate::types::{Finish, Message};

/// One generation of policies, pinned for a request's whole life, with what is known about the
/// request. Cloning is cheap.
#[derive(Clone)]
pub struct Snapshot(Arc<()>);

/// The output filter of one answer.
pub struct Filter(());

impl Snapshot {
    pub fn generation(&self) -> u64 { todo!() }
    /// Hex digest over all policies and their configs: part of every cache key.
    pub fn identity(&self) -> &str { todo!() }
    pub fn facts(&self) -> &Facts { todo!() }
    pub async fn layout(&self) -> Result<Layout, Denied> { todo!() }
    pub async fn guard(&self, messages: &[Message]) -> Result<Verdict, Denied> { todo!() }
    pub async fn cache_decide(&self, messages: &[Message]) -> Result<Lookup, Denied> { todo!() }
    pub async fn trim(&self, messages: &[Message], previous_first: Option<u64>) -> Result<Trimmed, Denied> { todo!() }
    pub async fn build(&self, kept: &[Message]) -> Result<Prompt, Denied> { todo!() }
    pub async fn open_filter(&self) -> Result<Filter, Denied> { todo!() }
    /// Time to live, or `None` where the answer is not to be kept. `messages` as in `cache_decide`.
    pub async fn cache_admit(&self, messages: &[Message], answer: &str, outcome: AnswerOutcome) -> Option<Duration> { todo!() }
}

impl Filter {
    /// True where no filter is active: chunks may be sent on without asking.
    pub fn is_passthrough(&self) -> bool { todo!() }
    pub async fn push(&mut self, chunk: &str) -> Result<Step, Denied> { todo!() }
    /// What was held back, and closing words.
    pub async fn finish(&mut self, why: Finish) -> Result<String, Denied> { todo!() }
}
