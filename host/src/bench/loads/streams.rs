//! Answers that run side by side.

use futures::future::try_join_all;

use super::{Findings, Load, Round};
use crate::bench::answer::Answer;
use crate::bench::client::{AskError, Question};
use crate::bench::figures::{Figure, seconds};

/// One, two, three and four at once; every question is new to the server.
pub async fn measure(round: &Round<'_>) -> Result<Findings, AskError> {
    let mut texts = round.texts(Load::Streams);
    let mut findings = Findings::default();
    for streams in 1..=4_u8 {
        let questions: Vec<Question> = (0..streams)
            .map(|_| Question::new(texts.question(round.scale.words), round.scale.answer))
            .collect();
        let asks = questions
            .iter()
            .map(|question| round.server.client.ask(question));
        let answers = try_join_all(asks).await?;
        let firsts = seconds(answers.iter().map(Answer::first));
        findings.add_median(Figure::First { streams }, &firsts);
        match steady(&answers) {
            Some(rate) => findings.add(Figure::Steady { streams }, rate),
            None => findings
                .notes
                .push(format!("{streams} streams never ran at the same time")),
        }
        findings.add(Figure::Together { streams }, together(&answers));
        round.settle().await;
    }
    Ok(findings)
}

/// The server's own answer is quoted in the next prompt, which gets the same answer again: text
/// that can be guessed from the prompt.
pub async fn measure_repeating(round: &Round<'_>) -> Result<Findings, AskError> {
    let mut texts = round.texts(Load::Repeating);
    let mut findings = Findings::default();
    let (client, scale) = (&round.server.client, round.scale);
    let source = client
        .ask(&Question::new(texts.question(scale.words), scale.answer))
        .await?;
    let prompt = format!("{} Repeat: {}", texts.question(8), source.text.trim());
    let answer = client.ask(&Question::new(prompt, scale.answer)).await?;
    if answer.text.trim() != source.text.trim() {
        findings
            .notes
            .push("the answer does not repeat the prompt with this model".to_owned());
    }
    findings
        .samples
        .extend(steady(&[answer]).map(|rate| (Figure::Repeating, rate)));
    round.settle().await;
    Ok(findings)
}

/// Tokens a second from the first request to the last piece, reading the prompts included.
pub fn together(answers: &[Answer]) -> f64 {
    let tokens: u32 = answers.iter().map(Answer::tokens).sum();
    let start = answers.iter().map(|answer| answer.sent).min();
    let end = answers.iter().map(Answer::last_piece).max();
    match (start, end) {
        (Some(start), Some(end)) => f64::from(tokens) / (end - start).as_secs_f64(),
        _ => 0.0,
    }
}

/// Tokens a second while all answers run: after the last one's first piece, up to the first
/// one's last piece. `None` where there is no such time.
pub fn steady(answers: &[Answer]) -> Option<f64> {
    let start = answers.iter().map(|answer| answer.pieces[0]).max()?;
    let end = answers.iter().map(Answer::last_piece).min()?;
    let span = end
        .checked_duration_since(start)
        .filter(|span| !span.is_zero())?;
    let tokens: f64 = answers
        .iter()
        .map(|answer| {
            let within = |at: &&std::time::Instant| **at > start && **at <= end;
            answer.pieces.iter().filter(within).count() as f64 * answer.tokens_per_piece()
        })
        .sum();
    Some(tokens / span.as_secs_f64())
}
