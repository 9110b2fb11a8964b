//! Answers that are there before they are asked for: from the cache, or a policy's fixed text.

use super::answer::{channel, head};
use super::ending::{Spent, close, summary};
use super::turn::Turn;
use super::{Answer, history};
use crate::cache::Cached;
use crate::error::Error;
use crate::policy::Trimmed;
use crate::stream::{Part, Summary};
use crate::trace::spans::{self, Outcome};
use crate::types::Token;

/// Answers from the cache: the same parts as a fresh answer has. `trimmed`: what trimming did this
/// time, where it was asked; without it the kept answer says what it did.
pub async fn replay(turn: Turn, hit: Cached, trimmed: Option<Trimmed>) -> Result<Answer, Error> {
    let summary = Summary {
        finish: hit.finish,
        cached: true,
        prompt_tokens: hit.prompt_tokens,
        cached_tokens: hit.prompt_tokens,
        output_tokens: hit.output_tokens,
        ..summary(&turn)
    };
    let (dropped, first) = match trimmed {
        Some(trimmed) => (trimmed.dropped, trimmed.first),
        None => (hit.dropped as usize, None),
    };
    let kept = Kept {
        text: &hit.text,
        tokens: &hit.tokens,
        dropped,
        first,
    };
    at_once(turn, kept, summary, Outcome::Cached).await
}

/// Answers with a policy's own text; the model is not asked.
pub async fn fixed(turn: Turn, text: String) -> Result<Answer, Error> {
    let summary = summary(&turn);
    let kept = Kept {
        text: &text,
        tokens: &[],
        dropped: 0,
        first: None,
    };
    at_once(turn, kept, summary, Outcome::Blocked).await
}

/// An answer that is there before it is asked for.
struct Kept<'a> {
    text: &'a str,
    tokens: &'a [Token],
    /// Messages of the history that its prompt leaves out, and the first that it keeps.
    dropped: usize,
    first: Option<u64>,
}

async fn at_once(
    mut turn: Turn,
    kept: Kept<'_>,
    mut summary: Summary,
    outcome: Outcome,
) -> Result<Answer, Error> {
    let Kept { text, dropped, .. } = kept;
    let head = head(&turn)?;
    let (parts, reader) = channel(&turn);
    history::remember(&mut turn, text, kept.tokens, kept.first).await?;
    summary.ttft = Some(turn.elapsed());
    spans::event(&turn.ask.span, "first_byte", &[]);
    if turn.live.capture_content {
        let asked = history::without_answer(&turn.messages);
        spans::content(&turn.ask.span, asked, text, summary.finish);
    }
    close(&mut turn, outcome, &summary, Spent::default(), None);
    let trimmed = (dropped > 0).then_some(Part::Trimmed { dropped });
    let said = (!text.is_empty()).then(|| Part::Text(text.to_owned()));
    // Three parts always fit the buffer: this waits for nobody.
    for part in trimmed.into_iter().chain(said).chain([Part::Done(summary)]) {
        let _ = parts.send(part).await;
    }
    Ok(Answer {
        head,
        parts: reader,
    })
}
