//! The stations between a dropped file and the live generation, and why a file did not pass one.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::types::Hook;
use super::words::plain;

/// Longest reason: names in a file may be as long as its author likes, and a compiling child must
/// get rid of its report before anybody reads it.
const REASON_BYTES: usize = 4 << 10;

/// In the order in which a file meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Size and time of change have to stay the same for a moment.
    Settle,
    /// Size, signature, pin, and not rolled back before.
    Verify,
    /// A core module becomes a component.
    Componentize,
    /// Only what the host offers may be imported, and a hook must be exported.
    Contract,
    /// In a child process with limits.
    Compile,
    Instantiate,
    Describe,
    Configure,
    SelfTest,
    /// Golden cases.
    Cases,
    /// One file for one hook.
    Swap,
}

/// One file's end: where, and why in one sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    pub stage: Stage,
    pub reason: String,
    /// The file ends too early: it may still be being written.
    pub truncated: bool,
    /// Which hook it would have served, as far as the file was understood.
    #[serde(default)]
    pub hook: Option<Hook>,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Settle => "settle",
            Stage::Verify => "verify",
            Stage::Componentize => "componentize",
            Stage::Contract => "contract",
            Stage::Compile => "compile",
            Stage::Instantiate => "instantiate",
            Stage::Describe => "describe",
            Stage::Configure => "configure",
            Stage::SelfTest => "self-test",
            Stage::Cases => "cases",
            Stage::Swap => "swap",
        }
    }

    pub(super) fn reject(self, reason: impl AsRef<str>) -> Rejection {
        Rejection {
            stage: self,
            reason: plain(reason.as_ref(), REASON_BYTES).into_owned(),
            truncated: false,
            hook: None,
        }
    }
}

impl Rejection {
    /// The file ends too early.
    pub(super) fn cut_off(self, truncated: bool) -> Self {
        Self { truncated, ..self }
    }

    /// Names the hook, unless a nearer place did.
    pub(super) fn about(mut self, hook: Option<Hook>) -> Self {
        self.hook = self.hook.or(hook);
        self
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stage, self.reason)
    }
}
