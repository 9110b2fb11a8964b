//! Golden cases: questions with the answers that a candidate must give before it may serve.
//!
//! `NAME.cases.json` beside `NAME.wasm`, or `policies.<hook>.cases`, holds a list:
//!
//! ```json
//! [{ "name": "keeps the last exchange", "hook": "trim", "context": 4096, "reserved_output": 512,
//!    "messages": [{ "role": "user", "text": "Hello" }], "expect": { "kept": [0] } }]
//! ```
//!
//! `expect` is `{"kept": [index]}` (trim), `{"prompt": text}` (prompt), `{"allow": true}`,
//! `{"rewrite" | "reply" | "refuse": text}` (guard), or `{"lookup": "bypass" | "exact-prompt"}` and
//! `{"parts": [text]}` (cache). The host's own checks apply to each answer. Where a case names them
//! beside that, a prompt's `"stop": [text]` and a cache key's `"scope"` and `"max_age_ms"` are
//! compared as well.
//!
//! A filter's case has `chunks`, and `finish` where it is not `"stop"`:
//!
//! ```json
//! [{ "name": "an address over two chunks", "hook": "filter", "chunks": ["Write to ann@exa", "mple.org."],
//!    "expect": { "emitted": "Write to [e-mail address removed]." } }]
//! ```
//!
//! It expects `{"emitted": text}` of the whole answer, or `{"stopped": {"emitted": text,
//! "reason": word}}` where the filter ends it.
//!
//! A case of the cache hook with an `answer` asks whether that is kept; `finish`, `prompt_tokens`,
//! `output_tokens` and `elapsed_ms` tell how it came about:
//!
//! ```json
//! [{ "name": "kept for an hour", "hook": "cache", "messages": [{ "role": "user", "text": "Hello" }],
//!    "answer": "Good morning.", "expect": { "store": 3600000 } }]
//! ```
//!
//! It expects `{"store": milliseconds}` or `{"skip": true}`.

mod ask;
mod expect;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::generation::Revision;
use super::stage::{Rejection, Stage};
use super::stages::Shared;
use super::types::{AnswerOutcome, Hook};
use crate::types::{Finish, Message, Role, Tokenizer};
use ask::ask;
use expect::{Answer, Expect};

pub(super) use ask::filtered;

/// The content of one file.
pub(super) struct Cases {
    file: String,
    cases: Vec<Case>,
}

/// How one case came out.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    pub name: String,
    pub hook: Hook,
    pub outcome: CaseOutcome,
}

/// Expectations and answers are in the words of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaseOutcome {
    Same,
    Different {
        expected: Value,
        got: Value,
    },
    /// The policy failed, in one sentence.
    Failed(String),
    /// The component does not serve the case's hook.
    NotServed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    hook: Hook,
    #[serde(default = "context")]
    context: u32,
    #[serde(default = "reserved_output")]
    reserved_output: u32,
    #[serde(default)]
    previous_first: Option<u64>,
    #[serde(default)]
    messages: Vec<CaseMessage>,
    /// What a filter is fed with.
    #[serde(default)]
    chunks: Vec<String>,
    #[serde(default = "stop")]
    finish: Finish,
    /// Whether this is kept is asked of a cache policy.
    #[serde(default)]
    answer: Option<String>,
    /// Tokens of the messages, if unset.
    #[serde(default)]
    prompt_tokens: Option<u32>,
    /// Tokens of the answer, if unset.
    #[serde(default)]
    output_tokens: Option<u32>,
    #[serde(default = "elapsed_ms")]
    elapsed_ms: u64,
    expect: Answer,
}

/// Ids are positions; a user message begins the next exchange.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseMessage {
    role: Role,
    text: String,
    #[serde(default)]
    pinned: bool,
}

fn context() -> u32 {
    8192
}

fn reserved_output() -> u32 {
    1024
}

fn elapsed_ms() -> u64 {
    1000
}

fn stop() -> Finish {
    Finish::Stop
}

impl Cases {
    pub(super) fn read(path: &Path) -> Result<Self, Rejection> {
        let file = path.display().to_string();
        let unreadable = |e: &dyn std::fmt::Display| Stage::Cases.reject(format!("{file}: {e}"));
        let json = std::fs::read(path).map_err(|e| unreadable(&e))?;
        let cases: Vec<Case> = serde_json::from_slice(&json).map_err(|e| unreadable(&e))?;
        match cases.iter().find_map(|case| Some((case, case.mistake()?))) {
            None => Ok(Self { file, cases }),
            Some((case, mistake)) => Err(unreadable(&format!("case {:?}: {mistake}", case.name))),
        }
    }

    pub(super) fn of(&self, hook: Hook) -> usize {
        self.cases.iter().filter(|case| case.hook == hook).count()
    }
}

impl Case {
    fn mistake(&self) -> Option<&'static str> {
        let filter = self.hook == Hook::Filter;
        match (filter, self.chunks.is_empty(), self.messages.is_empty()) {
            (true, true, _) => Some("it has no chunks, expected the answer's text in pieces"),
            (false, false, _) => Some("it has chunks, expected messages: only filters get chunks"),
            (false, _, true) => Some("it has no messages, expected the new one at least"),
            _ => self.mistaken_answer(),
        }
    }
}

impl Case {
    fn mistaken_answer(&self) -> Option<&'static str> {
        let admission = matches!(self.expect.main, Expect::Store(_) | Expect::Skip(_));
        match (self.answer.is_some(), admission) {
            (true, _) if self.hook != Hook::Cache => {
                Some("it has an answer, expected none: only cache policies are asked to keep one")
            }
            (true, false) => Some(
                "it has an answer, expected {\"store\": milliseconds} or {\"skip\": true} of it",
            ),
            (false, true) => Some("it expects store or skip and has no answer to keep"),
            _ => None,
        }
    }

    fn outcome(&self, messages: &[Message], tokenizer: &dyn Tokenizer) -> AnswerOutcome {
        let prompt = || messages.iter().map(super::budget::tokens).sum();
        let output = || tokenizer.count(self.answer.as_deref().unwrap_or_default());
        AnswerOutcome {
            finish: self.finish,
            prompt_tokens: self.prompt_tokens.unwrap_or_else(prompt),
            output_tokens: self.output_tokens.unwrap_or_else(output),
            elapsed: Duration::from_millis(self.elapsed_ms),
        }
    }
}

/// Asks every case of the revision's hook; the first that is not as expected rejects it.
pub(super) fn run(
    cases: &Cases,
    revision: &Arc<Revision>,
    shared: &Arc<Shared>,
) -> Result<(), Rejection> {
    for case in cases.cases.iter().filter(|case| case.hook == revision.hook) {
        let failed = |reason: String| {
            Stage::Cases.reject(format!("case {:?} of {}: {reason}", case.name, cases.file))
        };
        match one(case, revision, shared) {
            CaseOutcome::Same | CaseOutcome::NotServed => {}
            CaseOutcome::Failed(fault) => return Err(failed(fault)),
            CaseOutcome::Different { expected, got } => {
                return Err(failed(format!("it answered {got}, expected {expected}")));
            }
        }
    }
    Ok(())
}

/// Asks every case, whatever comes out; in the order of the file.
pub(super) fn all(
    cases: &Cases,
    revisions: &[Arc<Revision>],
    shared: &Arc<Shared>,
) -> Vec<CaseReport> {
    let report = |case: &Case| {
        let asked = revisions.iter().find(|revision| revision.hook == case.hook);
        CaseReport {
            name: case.name.clone(),
            hook: case.hook,
            outcome: asked.map_or(CaseOutcome::NotServed, |it| one(case, it, shared)),
        }
    };
    cases.cases.iter().map(report).collect()
}

fn one(case: &Case, revision: &Arc<Revision>, shared: &Arc<Shared>) -> CaseOutcome {
    match block_on(ask(case, revision, shared)) {
        Ok(got) => match got.named_by(&case.expect) {
            got if got == case.expect => CaseOutcome::Same,
            got => CaseOutcome::Different {
                expected: case.expect.json(),
                got: got.json(),
            },
        },
        Err(fault) => CaseOutcome::Failed(fault.to_string()),
    }
}
