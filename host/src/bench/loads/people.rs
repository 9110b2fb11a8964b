//! People who read an answer, think, type, and ask again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;

use super::{Conversation, Findings, Load, Round};
use crate::bench::client::AskError;
use crate::bench::figures::{Figure, median, percentile, seconds};
use crate::bench::texts::Texts;

/// First tokens, or why there was none.
type Outcomes = Vec<Result<Duration, AskError>>;

pub async fn measure(round: &Round<'_>) -> Result<Findings, AskError> {
    let end = Instant::now() + round.scale.people_for;
    let outcomes = join_all((0..round.scale.people).map(|person| sit(round, person, end))).await;
    Ok(findings(outcomes.into_iter().flatten().collect()))
}

/// One person, until the time is over; a question asked in time is answered to its end.
async fn sit(round: &Round<'_>, person: usize, end: Instant) -> Outcomes {
    let part = Load::People as u64 + 1000 * (person as u64 + 1);
    let mut texts = Texts::new(round.seed, part);
    let name = format!("bench-{:x}-person-{person}", round.seed);
    let mut conversation = Conversation::new(name, round.server.memory);
    let mut outcomes = Vec::new();
    // Nobody sits down at the same moment.
    let mut pause = texts.delay(round.scale.think);
    while Instant::now() + pause < end {
        tokio::time::sleep(pause).await;
        let text = texts.question(round.scale.turn_words);
        let question = conversation.question(&text, round.scale.turn_answer);
        outcomes.push(match round.server.client.ask(&question).await {
            Ok(answer) => {
                let first = answer.first();
                conversation.remember(text, answer.text);
                Ok(first)
            }
            Err(error) => Err(error),
        });
        pause = texts.pause(round.scale.think);
    }
    outcomes
}

/// Percentiles of the first tokens, and what went wrong how often.
pub fn findings(outcomes: Outcomes) -> Findings {
    let mut findings = Findings::default();
    let mut errors: BTreeMap<String, usize> = BTreeMap::new();
    let mut firsts = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(first) => firsts.push(first),
            Err(error) => *errors.entry(error.to_string()).or_default() += 1,
        }
    }
    let firsts = seconds(firsts);
    findings.add(Figure::PeopleAnswers, firsts.len() as f64);
    findings.add(Figure::PeopleErrors, errors.values().sum::<usize>() as f64);
    findings
        .samples
        .extend(median(&firsts).map(|p50| (Figure::PeopleMedian, p50)));
    findings
        .samples
        .extend(percentile(&firsts, 95).map(|p95| (Figure::PeopleP95, p95)));
    for (error, times) in errors {
        findings.notes.push(format!("{times} x {error}"));
    }
    findings
}
