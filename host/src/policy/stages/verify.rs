//! What guests answer, as the gateway acts on it: nothing that does not exist, is too long, or goes
//! further than the operator allows.

use std::time::Duration;

use crate::policy::bindings::v0_1::exports::stent::policy as wit;
use crate::policy::bindings::v0_1::stent::policy::types as wit_types;
use crate::policy::fault::RunError;
use crate::policy::types::{Basis, CacheKey, Lookup, Scope, Verdict};
use crate::types::{Finish, Message};

/// How much longer than its input a filter's output may be.
const EXTRA_BYTES: usize = 64 << 10;
/// Longest text of a guard, and most and longest parts of a cache key.
const VERDICT_BYTES: usize = 64 << 10;
const KEY_PARTS: usize = 64;
const KEY_BYTES: usize = 64 << 10;

/// Texts must not be empty, nor longer than anybody would read.
pub(super) fn verdict(verdict: wit::guard::Verdict) -> Result<Verdict, RunError> {
    let bounded = |text: String| match text.len() {
        0 => Err(RunError::BadResult("the verdict's text is empty".into())),
        bytes if bytes > VERDICT_BYTES => Err(RunError::BadResult(format!(
            "the verdict's text has {bytes} bytes, at most {VERDICT_BYTES} are taken"
        ))),
        _ => Ok(text),
    };
    Ok(match verdict {
        wit::guard::Verdict::Allow => Verdict::Allow,
        wit::guard::Verdict::Rewrite(text) => Verdict::Rewrite(bounded(text)?),
        wit::guard::Verdict::Reply(text) => Verdict::Reply(bounded(text)?),
        wit::guard::Verdict::Refuse(text) => Verdict::Refuse(bounded(text)?),
    })
}

/// The indices that a decision names: ids must exist and rise.
pub(super) fn kept(
    messages: &[Message],
    decision: wit::session_trimmer::Decision,
) -> Result<Vec<usize>, RunError> {
    use wit::session_trimmer::Decision;
    let unknown = |id| RunError::BadResult(format!("there is no message with id {id}"));
    let at = |id: u64| {
        messages
            .iter()
            .position(|m| m.id == id)
            .ok_or_else(|| unknown(id))
    };
    match decision {
        Decision::KeepAll => Ok((0..messages.len()).collect()),
        Decision::KeepFrom(id) => {
            let from = at(id)?;
            Ok((0..messages.len())
                .filter(|&i| i >= from || messages[i].pinned)
                .collect())
        }
        Decision::Keep(ids) if ids.len() > messages.len() => Err(RunError::BadResult(format!(
            "it keeps {} messages, there are {}",
            ids.len(),
            messages.len()
        ))),
        Decision::Keep(ids) => {
            let kept = ids.into_iter().map(at).collect::<Result<Vec<_>, _>>()?;
            match kept.is_sorted_by(|a, b| a < b) {
                true => Ok(kept),
                false => Err(RunError::BadResult("the kept ids do not rise".into())),
            }
        }
    }
}

/// A key within what the operator granted.
pub(super) fn lookup(lookup: wit::cache::Lookup, granted: Scope) -> Result<Lookup, RunError> {
    let key = match lookup {
        wit::cache::Lookup::Bypass => return Ok(Lookup::Bypass),
        wit::cache::Lookup::By(key) => key,
    };
    let scope = Scope::from(key.scope);
    if scope > granted {
        return Err(RunError::BadResult(format!(
            "it asks for scope {}, policies.cache.scope grants {}",
            scope.as_str(),
            granted.as_str()
        )));
    }
    let basis = match key.basis {
        wit::cache::Basis::ExactPrompt => Basis::ExactPrompt,
        wit::cache::Basis::Parts(parts) => {
            let bytes = parts.iter().map(String::len).sum::<usize>();
            if bytes == 0 || bytes > KEY_BYTES || parts.len() > KEY_PARTS {
                return Err(RunError::BadResult(format!(
                    "the key has {} parts of {bytes} bytes, expected 1 to {KEY_PARTS} parts of 1 \
                     to {KEY_BYTES} bytes",
                    parts.len()
                )));
            }
            Basis::Parts(parts)
        }
    };
    Ok(Lookup::By(CacheKey {
        basis,
        scope,
        max_age: Duration::from_millis(key.max_age_ms),
    }))
}

/// What a filter says at once, after it was fed so many bytes and said so many in the whole answer.
pub(super) fn emitted(text: &str, fed: usize, before: usize) -> Result<(), RunError> {
    let limit = (fed + EXTRA_BYTES).saturating_sub(before);
    match text.len() > limit {
        false => Ok(()),
        true => Err(RunError::BadResult(format!(
            "it emits {} bytes at once, at most {limit} are taken",
            text.len()
        ))),
    }
}

impl From<Finish> for wit_types::Finish {
    fn from(finish: Finish) -> Self {
        match finish {
            Finish::Stop => Self::Stop,
            Finish::Length => Self::Length,
            Finish::Filtered => Self::Filtered,
            Finish::Cancelled => Self::Cancelled,
            Finish::Error => Self::Error,
        }
    }
}
