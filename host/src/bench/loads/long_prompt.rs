//! Three answers run; then somebody pastes a long text. How long do the three stand still, and
//! how long does the fourth person wait?

use std::time::Instant;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::{Findings, Load, Round};
use crate::bench::client::{AskError, Client, Question};
use crate::bench::figures::{Figure, median};

const STREAMS: usize = 3;
/// The long prompt's place behind the streams.
const LONG: usize = STREAMS;
/// The long prompt's answer is not looked at past its first piece.
const LONG_ANSWER: u32 = 8;

/// What the answers report as they run.
enum Seen {
    Piece {
        who: usize,
        at: Instant,
    },
    Ended {
        who: usize,
        result: Result<(), AskError>,
    },
}

/// When the pieces of each stream came.
#[derive(Debug, Default)]
pub struct Timeline {
    pub streams: [Vec<Instant>; STREAMS],
    pub long_sent: Option<Instant>,
    pub long_first: Option<Instant>,
    ended: [bool; STREAMS],
}

pub async fn measure(round: &Round<'_>) -> Result<Findings, AskError> {
    let mut texts = round.texts(Load::LongPrompt);
    let scale = round.scale;
    let (seen, mut events) = unbounded_channel();
    // Dropped at the end of this function, which closes all connections.
    let mut answers = JoinSet::new();
    for who in 0..STREAMS {
        let question = Question::new(texts.question(scale.words), scale.long_streams);
        answers.spawn(follow(
            round.server.client.clone(),
            question,
            who,
            seen.clone(),
        ));
    }
    let long = Question::new(texts.question(scale.long_words), LONG_ANSWER);
    let mut timeline = Timeline::default();
    while !timeline.complete() {
        if timeline.long_sent.is_none() && timeline.calm_for(scale.calm_pieces) {
            timeline.long_sent = Some(Instant::now());
            let client = round.server.client.clone();
            answers.spawn(follow(client, long.clone(), LONG, seen.clone()));
        }
        // `seen` itself lives here: the channel cannot close.
        match events.recv().await {
            Some(event) => timeline.note(event)?,
            None => break,
        }
    }
    drop(answers);
    round.settle().await;
    Ok(timeline.findings())
}

async fn follow(client: Client, question: Question, who: usize, seen: UnboundedSender<Seen>) {
    let tell = |at| {
        // Nobody listens any more once the measurement is over.
        let _ = seen.send(Seen::Piece { who, at });
    };
    let result = client.ask_with(&question, tell).await.map(drop);
    let _ = seen.send(Seen::Ended { who, result });
}

impl Timeline {
    fn note(&mut self, event: Seen) -> Result<(), AskError> {
        match event {
            Seen::Piece { who: LONG, at } => {
                self.long_first.get_or_insert(at);
            }
            Seen::Piece { who, at } => self.streams[who].push(at),
            Seen::Ended { who, result } => {
                result?;
                if let Some(ended) = self.ended.get_mut(who) {
                    *ended = true;
                }
            }
        }
        Ok(())
    }

    fn calm_for(&self, pieces: usize) -> bool {
        let over = |(stream, ended): (&Vec<Instant>, &bool)| *ended || stream.len() >= pieces;
        self.streams.iter().zip(&self.ended).all(over)
    }

    /// The long prompt has its first piece, and each stream has shown that it goes on.
    fn complete(&self) -> bool {
        let Some(first) = self.long_first else {
            return false;
        };
        self.streams
            .iter()
            .zip(&self.ended)
            .all(|(stream, ended)| *ended || stream.last().is_some_and(|at| *at > first))
    }

    pub fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        let (Some(sent), Some(first)) = (self.long_sent, self.long_first) else {
            return findings;
        };
        let all_run = self
            .streams
            .iter()
            .filter_map(|stream| stream.first())
            .max();
        let gaps = || self.streams.iter().flat_map(|stream| stream.windows(2));
        let calm: Vec<f64> = gaps()
            .filter(|gap| Some(&gap[0]) >= all_run && gap[1] <= sent)
            .map(|gap| (gap[1] - gap[0]).as_secs_f64())
            .collect();
        let worst = gaps()
            .filter(|gap| gap[1] > sent && gap[0] <= first)
            .map(|gap| (gap[1] - gap[0]).as_secs_f64())
            .max_by(f64::total_cmp);
        findings
            .samples
            .extend(median(&calm).map(|gap| (Figure::CalmGap, gap)));
        findings
            .samples
            .extend(worst.map(|gap| (Figure::WorstGap, gap)));
        findings.add(Figure::LongFirst, (first - sent).as_secs_f64());
        let over = self
            .streams
            .iter()
            .filter(|s| s.last().is_some_and(|at| *at < first))
            .count();
        if over > 0 {
            findings.notes.push(format!(
                "{over} of {STREAMS} streams ended before the long prompt's first token: the \
                 worst gap and the wait are too good"
            ));
        }
        findings
    }
}
