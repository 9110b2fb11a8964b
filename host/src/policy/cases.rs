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

use std::path::Path;
use std::sync::Arc;

use futures::executor::block_on;
use serde::Deserialize;

use super::budget::Budget;
use super::fault::RunError;
use super::generation::Revision;
use super::stage::{Rejection, Stage};
use super::stages::{Asked, Shared, case_prompt};
use super::types::{Basis, Facts, Hook, Lookup, Verdict};
use crate::types::{Message, Role, Special};

/// The content of one file.
pub(super) struct Cases {
    file: String,
    cases: Vec<Case>,
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
    messages: Vec<CaseMessage>,
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

#[derive(Debug, PartialEq, Eq, Deserialize)]
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
}

fn context() -> u32 {
    8192
}

fn reserved_output() -> u32 {
    1024
}

impl Cases {
    pub(super) fn read(path: &Path) -> Result<Self, Rejection> {
        let file = path.display().to_string();
        let unreadable = |e: &dyn std::fmt::Display| Stage::Cases.reject(format!("{file}: {e}"));
        let json = std::fs::read(path).map_err(|e| unreadable(&e))?;
        let cases = serde_json::from_slice(&json).map_err(|e| unreadable(&e))?;
        Ok(Self { file, cases })
    }
}

/// Asks every case of the revision's hook.
pub(super) fn run(
    cases: &Cases,
    revision: &Arc<Revision>,
    shared: &Arc<Shared>,
) -> Result<(), Rejection> {
    for case in cases.cases.iter().filter(|case| case.hook == revision.hook) {
        let failed = |reason: String| {
            Stage::Cases.reject(format!("case {:?} of {}: {reason}", case.name, cases.file))
        };
        let got = block_on(ask(case, revision, shared)).map_err(|e| failed(e.to_string()))?;
        if got != case.expect {
            return Err(failed(format!(
                "it answered {got:?}, expected {:?}",
                case.expect
            )));
        }
    }
    Ok(())
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
        Hook::Filter => return Err(RunError::BadResult("filters have no cases yet".into())),
    })
}
