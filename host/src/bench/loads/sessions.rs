//! Conversations in which the window of kept exchanges first grows and then slides.

use futures::future::try_join_all;

use super::{Conversation, Findings, Load, Round};
use crate::bench::client::AskError;
use crate::bench::figures::{Figure, median};

/// Conversations that are being answered at the same time.
const AT_ONCE: usize = 2;

/// From this turn on the oldest exchange has fallen out of every prompt.
const SLIDES_FROM: u8 = 5;

/// First token in seconds of a turn.
type Sample = (u8, f64);

pub async fn measure(round: &Round<'_>) -> Result<Findings, AskError> {
    let mut texts = round.texts(Load::Sessions);
    let scale = round.scale;
    let scripts: Vec<Vec<String>> = (0..scale.sessions)
        .map(|_| {
            (0..scale.turns)
                .map(|_| texts.question(scale.turn_words))
                .collect()
        })
        .collect();
    // Each worker takes every second session through its turns, one session after the other, so
    // that a session comes back only after several others have been answered.
    let workers = (0..AT_ONCE).map(|worker| {
        let own = scripts.iter().enumerate().skip(worker).step_by(AT_ONCE);
        converse(round, own.collect())
    });
    let samples: Vec<Sample> = try_join_all(workers).await?.concat();
    Ok(findings(&samples, scale.turns))
}

/// Takes these sessions through all turns, turn by turn.
async fn converse(
    round: &Round<'_>,
    scripts: Vec<(usize, &Vec<String>)>,
) -> Result<Vec<Sample>, AskError> {
    let mut samples = Vec::new();
    let mut conversations: Vec<Conversation> = scripts
        .iter()
        .map(|(session, _)| {
            let name = format!("bench-{:x}-{}-{session}", round.seed, round.rep);
            Conversation::new(name, round.server.memory)
        })
        .collect();
    for turn in 0..round.scale.turns {
        for ((_, script), conversation) in scripts.iter().zip(&mut conversations) {
            let text = &script[usize::from(turn)];
            let question = conversation.question(text, round.scale.turn_answer);
            let answer = round.server.client.ask(&question).await?;
            samples.push((turn + 1, answer.first().as_secs_f64()));
            conversation.remember(text.clone(), answer.text);
        }
    }
    Ok(samples)
}

/// Medians by turn, and the sliding turns against the second.
pub fn findings(samples: &[Sample], turns: u8) -> Findings {
    let mut findings = Findings::default();
    let of = |wanted: &dyn Fn(u8) -> bool| -> Vec<f64> {
        samples
            .iter()
            .filter(|(turn, _)| wanted(*turn))
            .map(|(_, first)| *first)
            .collect()
    };
    for turn in 1..=turns {
        findings.add_median(Figure::Turn(turn), &of(&|at| at == turn));
    }
    let second = median(&of(&|at| at == 2));
    let sliding = median(&of(&|at| at >= SLIDES_FROM));
    if let (Some(second), Some(sliding)) = (second, sliding) {
        findings.add(Figure::Sliding, sliding / second);
    }
    findings
}
