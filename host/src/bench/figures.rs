//! What is measured, in which unit, and what it must reach. The order of the variants is the
//! order of the table.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Load;

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Median first token of `n` streams that start together.
    First {
        streams: u8,
    },
    /// Tokens of a stream a second, after its first token; together, while all `n` run.
    Steady {
        streams: u8,
    },
    /// Tokens of `n` streams a second, from the first request to the last token.
    Together {
        streams: u8,
    },
    /// Like `Steady` of one stream, where the answer repeats the prompt.
    Repeating,
    /// Median gap between two pieces of a stream, three running, before a long prompt arrives.
    CalmGap,
    /// Longest gap of the three while the long prompt is read.
    WorstGap,
    /// First token of the long prompt.
    LongFirst,
    /// Median first token of all sessions in this turn, from 1.
    Turn(u8),
    /// The median of turns 5 to 8 (the window slides) against turn 2 (it grows).
    Sliding,
    /// One question, asked alone, to its end.
    Alone,
    /// The same question eight times at once, to the last end.
    Eight,
    /// The two above, one by the other.
    EightByAlone,
    /// What the people who read and type got.
    PeopleAnswers,
    PeopleErrors,
    PeopleMedian,
    PeopleP95,
    /// Memory of the server's process after all loads.
    Resident,
    Locked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    TokensPerSecond,
    Count,
    Times,
    Gibibytes,
}

/// What a figure must reach; "the peer" is the second server of the same run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// At least this many times the peer's.
    AtLeastPeer(f64),
    /// At most this many times the peer's.
    AtMostPeer(f64),
    /// At most this many times another figure of the peer's.
    AtMostPeers(f64, Figure),
    /// At most this much.
    AtMost(f64),
}

/// Samples of one server.
pub type Samples = BTreeMap<Figure, Vec<f64>>;

impl Figure {
    pub fn load(self) -> Option<Load> {
        use Figure::*;
        match self {
            First { .. } | Steady { .. } | Together { .. } => Some(Load::Streams),
            Repeating => Some(Load::Repeating),
            CalmGap | WorstGap | LongFirst => Some(Load::LongPrompt),
            Turn(_) | Sliding => Some(Load::Sessions),
            Alone | Eight | EightByAlone => Some(Load::Identical),
            PeopleAnswers | PeopleErrors | PeopleMedian | PeopleP95 => Some(Load::People),
            Resident | Locked => None,
        }
    }

    pub fn label(self) -> String {
        use Figure::*;
        let text = match self {
            First { streams: 1 } => "one stream: first token",
            Steady { streams: 1 } => "one stream: after the first token",
            Together { streams: 1 } => "one stream: with the first token",
            First { streams } => return format!("{streams} streams: first token, median"),
            Steady { streams } => return format!("{streams} streams: while all run"),
            Together { streams } => return format!("{streams} streams: together"),
            Repeating => "one stream, answer repeats the prompt",
            CalmGap => "3 streams: gap, median",
            WorstGap => "long prompt arrives: worst gap",
            LongFirst => "long prompt: first token",
            Turn(turn) => return format!("sessions: first token, turn {turn}"),
            Sliding => "sessions: turns 5 to 8 by turn 2",
            Alone => "one question, to its end",
            Eight => "8 identical at once, to the last end",
            EightByAlone => "8 identical by one",
            PeopleAnswers => "12 people: answers",
            PeopleErrors => "12 people: errors",
            PeopleMedian => "12 people: first token, p50",
            PeopleP95 => "12 people: first token, p95",
            Resident => "memory: resident",
            Locked => "memory: locked",
        };
        text.to_owned()
    }

    pub fn unit(self) -> Unit {
        use Figure::*;
        match self {
            Steady { .. } | Together { .. } | Repeating => Unit::TokensPerSecond,
            Sliding | EightByAlone => Unit::Times,
            PeopleAnswers | PeopleErrors => Unit::Count,
            Resident | Locked => Unit::Gibibytes,
            First { .. }
            | CalmGap
            | WorstGap
            | LongFirst
            | Turn(_)
            | Alone
            | Eight
            | PeopleMedian
            | PeopleP95 => Unit::Seconds,
        }
    }

    /// What Stent sets out to reach beside llama-server.
    pub fn rule(self) -> Option<Rule> {
        use Figure::*;
        match self {
            Steady { streams: 1 } => Some(Rule::AtLeastPeer(1.0)),
            Together { streams: 2 } => Some(Rule::AtLeastPeer(1.0)),
            Together { streams: 3 } => Some(Rule::AtLeastPeer(1.15)),
            Together { streams: 4 } => Some(Rule::AtLeastPeer(1.1)),
            Repeating => Some(Rule::AtLeastPeer(1.3)),
            WorstGap => Some(Rule::AtMostPeers(3.5, CalmGap)),
            LongFirst => Some(Rule::AtMostPeer(1.9)),
            Sliding => Some(Rule::AtMost(1.2)),
            EightByAlone => Some(Rule::AtMost(1.3)),
            PeopleErrors => Some(Rule::AtMost(0.0)),
            PeopleP95 => Some(Rule::AtMostPeer(0.5)),
            _ => None,
        }
    }
}

impl Rule {
    pub fn text(self) -> String {
        match self {
            Self::AtLeastPeer(times) => format!("≥ {times} x peer"),
            Self::AtMostPeer(times) => format!("≤ {times} x peer"),
            Self::AtMostPeers(times, Figure::CalmGap) => format!("≤ {times} x peer's gap"),
            Self::AtMostPeers(times, other) => format!("≤ {times} x peer's {}", other.label()),
            Self::AtMost(0.0) => "none".to_owned(),
            Self::AtMost(most) => format!("≤ {most}"),
        }
    }

    /// Whether `value` reaches it; `None` where the peer's figure is missing.
    pub fn met(self, figure: Figure, value: f64, peer: &Samples) -> Option<bool> {
        Some(match self {
            Self::AtLeastPeer(times) => value >= times * of(peer, figure)?,
            Self::AtMostPeer(times) => value <= times * of(peer, figure)?,
            Self::AtMostPeers(times, other) => value <= times * of(peer, other)?,
            Self::AtMost(most) => value <= most,
        })
    }
}

/// A server's figure: the median of its samples.
pub fn of(samples: &Samples, figure: Figure) -> Option<f64> {
    median(samples.get(&figure)?)
}

/// `None` of nothing; the mean of the two in the middle of an even number.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let upper = *sorted.get(sorted.len() / 2)?;
    match sorted.len() % 2 {
        1 => Some(upper),
        _ => Some((sorted[sorted.len() / 2 - 1] + upper) / 2.0),
    }
}

/// The smallest value that `percent` of all values do not exceed (nearest rank).
pub fn percentile(values: &[f64], percent: u32) -> Option<f64> {
    let sorted = sorted(values);
    let rank = (sorted.len() * percent as usize).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

pub fn seconds(durations: impl IntoIterator<Item = Duration>) -> Vec<f64> {
    durations.into_iter().map(|d| d.as_secs_f64()).collect()
}
