//! A candidate asked what was recorded, its answers compared with those that were given.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use futures::executor::block_on;
use serde::Serialize;
use serde_json::Value;

use super::cases::filtered;
use super::fault::RunError;
use super::generation::Revision;
use super::policies::PolicyError;
use super::recording::{Heard, Line};
use super::types::{Hook, Prompt};
use super::workbench::{Draft, Workbench};

/// How a candidate's answers compare with the recorded ones.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Replay {
    pub hooks: BTreeMap<Hook, Compared>,
    /// Calls of hooks that the candidate does not serve.
    pub others: u64,
    /// Lines that are no recorded call, such as one that a crash cut off.
    pub unreadable: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Compared {
    pub same: u64,
    pub different: u64,
    /// Calls in which the candidate failed.
    pub failed: u64,
    /// The first calls that were not the same.
    pub first: Vec<Difference>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Number of the recording's line, from 1.
    pub line: usize,
    /// Who answered then.
    pub policy: String,
    /// `null` where the policy failed and the request was refused.
    pub recorded: Value,
    /// The candidate's answer, or its fault in one sentence.
    pub candidate: Result<Value, String>,
}

impl Workbench {
    /// Asks the draft every recorded call of its hooks; `keep` differences of each are shown.
    ///
    /// # Errors
    /// When the recording cannot be read, or holds no call at all.
    pub fn replay(
        &self,
        draft: &Draft,
        recording: &Path,
        keep: usize,
    ) -> Result<Replay, PolicyError> {
        let unreadable = |source| PolicyError::Files {
            key: "--recording",
            path: recording.to_owned(),
            source,
        };
        let file = File::open(recording).map_err(unreadable)?;
        let mut replay = Replay::default();
        for served in &draft.served {
            replay.hooks.entry(served.hook).or_default();
        }
        let mut calls = 0_u64;
        for (at, text) in BufReader::new(file).split(b'\n').enumerate() {
            let text = text.map_err(unreadable)?;
            let Ok(line) = serde_json::from_slice::<Line>(&text) else {
                replay.unreadable += 1;
                continue;
            };
            calls += 1;
            let hook = line.call.hook();
            let Some(revision) = draft.revisions.iter().find(|r| r.hook == hook) else {
                replay.others += 1;
                continue;
            };
            let Some((recorded, candidate)) = block_on(self.ask_again(revision, &line)) else {
                continue;
            };
            let compared = replay.hooks.entry(hook).or_default();
            let counter = match &candidate {
                Ok(answer) if *answer == recorded => {
                    compared.same += 1;
                    continue;
                }
                Ok(_) => &mut compared.different,
                Err(_) => &mut compared.failed,
            };
            *counter += 1;
            if compared.first.len() < keep {
                compared.first.push(Difference {
                    line: at + 1,
                    policy: line.policy,
                    recorded,
                    candidate: candidate.map_err(|fault| fault.to_string()),
                });
            }
        }
        match calls {
            0 => Err(PolicyError::Settings(format!(
                "{}: holds no recorded call, expected a file that policies.record wrote",
                recording.display()
            ))),
            _ => Ok(replay),
        }
    }

    /// The recorded answer and the candidate's.
    async fn ask_again(
        &self,
        revision: &Arc<Revision>,
        line: &Line,
    ) -> Option<(Value, Result<Value, RunError>)> {
        let asked = self.asked(revision, line.facts.clone());
        Some(match &line.call {
            Heard::Guard { messages, answer } => (
                json(answer),
                asked.guard(messages).await?.map(|it| json(&it)),
            ),
            Heard::CacheDecide { messages, answer } => (
                json(answer),
                asked.decide(messages).await?.map(|it| json(&it)),
            ),
            Heard::CacheAdmit {
                messages,
                text,
                outcome,
                answer,
            } => {
                let admitted = asked.admit(messages, text, *outcome).await?;
                (json(answer), admitted.map(|ttl| json(&ttl)))
            }
            Heard::Trim {
                messages,
                budget,
                previous_first,
                answer,
            } => {
                let trimmed = asked.trim(messages, *budget, *previous_first).await?;
                let kept = answer.as_ref().map(|it| &it.kept);
                (json(&kept), trimmed.map(|it| json(&it.kept)))
            }
            Heard::Build {
                messages, answer, ..
            } => {
                let built = asked.declare_and_build(messages).await?;
                let built = built.map(|prompt| self.prompt(Some(&prompt)));
                (self.prompt(answer.as_ref()), built)
            }
            Heard::Filter {
                chunks,
                finish,
                answer,
            } => {
                let whole = filtered(&asked, chunks, *finish).await?;
                (json(answer), whole.map(|it| json(&it)))
            }
        })
    }

    /// The prompt as people read it, with its tokens, which alone decide whether two are the same.
    fn prompt(&self, prompt: Option<&Prompt>) -> Value {
        let Some(Prompt { tokens, stop, .. }) = prompt else {
            return Value::Null;
        };
        let bytes = tokens.iter().flat_map(|&t| self.shared.tokenizer.bytes(t));
        let bytes: Vec<u8> = bytes.collect();
        let text = String::from_utf8_lossy(&bytes);
        serde_json::json!({ "text": text, "stop": stop, "tokens": tokens })
    }
}

fn json(answer: &impl Serialize) -> Value {
    // Decisions are texts, numbers and lists, which always have a JSON form.
    serde_json::to_value(answer).unwrap_or_default()
}
