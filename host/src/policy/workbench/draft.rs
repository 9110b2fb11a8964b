//! What the workbench found a file to be.

use std::sync::Arc;

use serde::Serialize;

use crate::policy::generation::Revision;
use crate::policy::types::Hook;

/// A policy that went through the stages and serves nobody.
pub struct Draft {
    pub bytes: u64,
    /// Hex digest of the file.
    pub sha256: String,
    /// False for a core module, which the gateway wraps.
    pub is_component: bool,
    /// Names of what it imports.
    pub imports: Vec<String>,
    pub served: Vec<Served>,
    pub(in crate::policy) revisions: Vec<Arc<Revision>>,
}

/// One hook of a [`Draft`], in its own words.
#[derive(Clone, Debug, Serialize)]
pub struct Served {
    pub hook: Hook,
    pub name: String,
    pub version: String,
    pub summary: String,
    /// The most memory that an instance took to get ready, in bytes.
    pub memory_peak: usize,
}

/// What was taken of the limit.
pub(super) fn memory(served: &[Served], limit: u64) -> String {
    let most = served.iter().map(|served| served.memory_peak).max();
    format!(
        "{} bytes of memory at most, of {limit}",
        most.unwrap_or_default()
    )
}

/// Who they say they are.
pub(super) fn names(served: &[Served]) -> String {
    let mut names: Vec<_> = served
        .iter()
        .map(|served| format!("{} {}", served.name, served.version))
        .collect();
    names.dedup();
    names.join(", ")
}
