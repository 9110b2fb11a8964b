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
//! `{"parts": [text]}` (cache). The host's own checks apply to each answer.
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

use std::path::Path;
use std::sync::Arc;

use futures::executor::block_on;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::budget::Budget;
use super::fault::RunError;
use super::generation::Revision;
use super::recording::Filtered;
use super::stage::{Rejection, Stage};
use super::stages::{ActiveFilter, Asked, Shared, case_prompt};
use super::types::{Basis, Facts, Hook, Lookup, Step, Verdict};
use crate::types::{Finish, Message, Role, Special};

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
    expect: Expect,
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

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Expect {
    Kept(Vec<usize>),
    Prompt(String),
    Allow(bool),
    Rewrite(String),
    Reply(String),
    Refuse(String),
    Lookup(String),
    Parts(Vec<String>),
    Emitted(String),
    Stopped { emitted: String, reason: String },
}

fn context() -> u32 {
    8192
}

fn reserved_output() -> u32 {
    1024
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
            _ => None,
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
        Ok(got) if got == case.expect => CaseOutcome::Same,
        Ok(got) => {
            // Texts, numbers and lists always have a JSON form.
            let json = |it: &Expect| serde_json::to_value(it).unwrap_or_default();
            let (expected, got) = (json(&case.expect), json(&got));
            CaseOutcome::Different { expected, got }
        }
        Err(fault) => CaseOutcome::Failed(fault.to_string()),
    }
}

/// Feeds a filter with a whole answer.
pub(super) async fn filtered(
    asked: &Asked,
    chunks: &[String],
    finish: Option<Finish>,
) -> Option<Result<Filtered, RunError>> {
    let mut filter = match ActiveFilter::open(asked).await? {
        Ok(filter) => filter,
        Err(fault) => return Some(Err(fault)),
    };
    Some(
        async {
            let mut all = Filtered::default();
            for chunk in chunks {
                match filter.push(chunk).await? {
                    Step::Emit(text) => all.emitted.push_str(&text),
                    Step::Stop { emit, reason } => {
                        all.emitted.push_str(&emit);
                        all.stopped = Some(reason);
                        return Ok(all);
                    }
                }
            }
            if let Some(finish) = finish {
                all.emitted.push_str(&filter.finish(finish).await?);
            }
            Ok(all)
        }
        .await,
    )
}

async fn ask(
    case: &Case,
    revision: &Arc<Revision>,
    shared: &Arc<Shared>,
) -> Result<Expect, RunError> {
    let mut exchange = 0;
    let messages: Vec<Message> = case
        .messages
        .iter()
        .enumerate()
        .map(|(at, m)| {
            exchange += u32::from(m.role == Role::User && at > 0);
            Message {
                id: at as u64,
                role: m.role,
                text: m.text.as_str().into(),
                tokens: shared.tokenizer.encode(&m.text, Special::AsText).into(),
                pinned: m.pinned,
                exchange,
            }
        })
        .collect();
    let facts = Facts {
        model: "cases".into(),
        now_ms: 0,
        context: case.context,
        reserved_output: case.reserved_output,
        streaming: true,
        attributes: Vec::new(),
    };
    let (layout, low_water) = (&shared.native_layout, shared.settings.low_water);
    let budget = Budget::new(&facts, layout, low_water, &messages);
    let facts = Arc::new(facts);
    let (revision, shared, span) = (revision.clone(), shared.clone(), tracing::Span::none());
    let asked = Asked {
        revision,
        generation: 0,
        facts,
        shared,
        span,
        live: false,
    };
    let missing = || RunError::BadResult("native code has no cases".into());
    Ok(match case.hook {
        Hook::Trim => {
            let budget = budget.map_err(|e| RunError::BadResult(e.to_string()))?;
            let trimmed = asked.trim(&messages, budget, case.previous_first).await;
            Expect::Kept(trimmed.ok_or_else(missing)??.kept)
        }
        Hook::Prompt => Expect::Prompt(case_prompt(&asked, &messages).await.ok_or_else(missing)??),
        Hook::Guard => match asked.guard(&messages).await.ok_or_else(missing)?? {
            Verdict::Allow => Expect::Allow(true),
            Verdict::Rewrite(text) => Expect::Rewrite(text),
            Verdict::Reply(text) => Expect::Reply(text),
            Verdict::Refuse(text) => Expect::Refuse(text),
        },
        Hook::Cache => match asked.decide(&messages).await.ok_or_else(missing)?? {
            Lookup::Bypass => Expect::Lookup("bypass".into()),
            Lookup::By(key) => match key.basis {
                Basis::ExactPrompt => Expect::Lookup("exact-prompt".into()),
                Basis::Parts(parts) => Expect::Parts(parts),
            },
        },
        Hook::Filter => {
            let whole = filtered(&asked, &case.chunks, Some(case.finish)).await;
            let Filtered { emitted, stopped } = whole.ok_or_else(missing)??;
            match stopped {
                None => Expect::Emitted(emitted),
                Some(reason) => Expect::Stopped { emitted, reason },
            }
        }
    })
}
