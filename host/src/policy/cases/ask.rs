//! A case as a question to the policy, and its answer in the words of the file.

use std::sync::Arc;

use super::Case;
use super::expect::{Answer, Expect, With};
use crate::policy::budget::Budget;
use crate::policy::fault::RunError;
use crate::policy::generation::Revision;
use crate::policy::recording::Filtered;
use crate::policy::stages::{ActiveFilter, Asked, Shared, case_prompt};
use crate::policy::types::{Basis, Facts, Hook, Lookup, Step, Verdict};
use crate::types::{Finish, Message, Role, Special, TenantId};

/// Feeds a filter with a whole answer.
pub(in crate::policy) async fn filtered(
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

pub(super) async fn ask(
    case: &Case,
    revision: &Arc<Revision>,
    shared: &Arc<Shared>,
) -> Result<Answer, RunError> {
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
        tenant: TenantId::default(),
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
        faulted: Arc::default(),
    };
    let missing = || RunError::BadResult("native code has no cases".into());
    Ok(match case.hook {
        Hook::Trim => {
            let budget = budget.map_err(|e| RunError::BadResult(e.to_string()))?;
            let trimmed = asked.trim(&messages, budget, case.previous_first).await;
            Expect::Kept(trimmed.ok_or_else(missing)??.kept).into()
        }
        Hook::Prompt => {
            let built = case_prompt(&asked, &messages).await;
            let (text, stop) = built.ok_or_else(missing)??;
            let stop = Some(stop);
            Expect::Prompt(text).with(With {
                stop,
                ..With::default()
            })
        }
        Hook::Guard => match asked.guard(&messages).await.ok_or_else(missing)?? {
            Verdict::Allow => Expect::Allow(true),
            Verdict::Rewrite(text) => Expect::Rewrite(text),
            Verdict::Reply(text) => Expect::Reply(text),
            Verdict::Refuse(text) => Expect::Refuse(text),
        }
        .into(),
        Hook::Cache if case.answer.is_some() => {
            let answer = case.answer.as_deref().unwrap_or_default();
            let outcome = case.outcome(&messages, &*asked.shared.tokenizer);
            let admitted = asked.admit(&messages, answer, outcome).await;
            match admitted.ok_or_else(missing)?? {
                // What came from a guest as milliseconds is some again.
                Some(ttl) => Expect::Store(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
                None => Expect::Skip(true),
            }
            .into()
        }
        Hook::Cache => match asked.decide(&messages).await.ok_or_else(missing)?? {
            Lookup::Bypass => Expect::Lookup("bypass".into()).into(),
            Lookup::By(key) => {
                let basis = match key.basis {
                    Basis::ExactPrompt => Expect::Lookup("exact-prompt".into()),
                    Basis::Parts(parts) => Expect::Parts(parts),
                };
                basis.with(With {
                    scope: Some(key.scope),
                    // What came from a guest as milliseconds is some again.
                    max_age_ms: u64::try_from(key.max_age.as_millis()).ok(),
                    stop: None,
                })
            }
        },
        Hook::Filter => {
            let whole = filtered(&asked, &case.chunks, Some(case.finish)).await;
            let Filtered { emitted, stopped } = whole.ok_or_else(missing)??;
            match stopped {
                None => Expect::Emitted(emitted),
                Some(reason) => Expect::Stopped { emitted, reason },
            }
            .into()
        }
    })
}
