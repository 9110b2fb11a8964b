//! Eight people ask the same thing at the same moment.

use futures::future::try_join_all;

use super::{Findings, Load, Round};
use crate::bench::answer::Answer;
use crate::bench::client::{AskError, Question};
use crate::bench::figures::Figure;

const AT_ONCE: usize = 8;

pub async fn measure(round: &Round<'_>) -> Result<Findings, AskError> {
    let mut texts = round.texts(Load::Identical);
    let mut findings = Findings::default();
    // Two texts of one length: the answer to the first may be remembered.
    let mut next = || Question::new(texts.question(round.scale.words), round.scale.answer);
    let (first, second) = (next(), next());

    let alone = wall(&[round.server.client.ask(&first).await?]);
    round.settle().await;
    let asks = (0..AT_ONCE).map(|_| round.server.client.ask(&second));
    let answers = try_join_all(asks).await?;
    let eight = wall(&answers);
    if answers.iter().any(|answer| answer.text != answers[0].text) {
        findings
            .notes
            .push("identical questions got different answers".to_owned());
    }
    findings.add(Figure::Alone, alone);
    findings.add(Figure::Eight, eight);
    findings.add(Figure::EightByAlone, eight / alone);
    round.settle().await;
    Ok(findings)
}

/// Seconds from the first request to the last end.
fn wall(answers: &[Answer]) -> f64 {
    let start = answers.iter().map(|answer| answer.sent).min();
    let end = answers.iter().map(|answer| answer.ended).max();
    match (start, end) {
        (Some(start), Some(end)) => (end - start).as_secs_f64(),
        _ => 0.0,
    }
}
