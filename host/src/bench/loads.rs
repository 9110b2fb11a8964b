//! The loads, each a way in which people meet a chat server.

use std::time::Duration;

use super::client::{AskError, Client};
use super::figures::Figure;
use super::texts::Texts;
use super::{Memory, figures};

mod conversation;
pub mod identical;
pub mod long_prompt;
pub mod people;
pub mod sessions;
pub mod streams;

pub use conversation::Conversation;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Load {
    /// One, two, three and four answers at once
    Streams,
    /// One answer that repeats a text of its prompt
    Repeating,
    /// A 1,100-word prompt arrives while three answers run
    LongPrompt,
    /// Six conversations of eight turns, two at a time, the last three exchanges kept
    Sessions,
    /// Eight identical questions at once
    Identical,
    /// Twelve people who read, think and type
    People,
}

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Repetitions of the short loads.
    pub reps: u32,
    /// Words of a question, and tokens of its answer.
    pub words: usize,
    pub answer: u32,
    /// The long prompt's words; pieces that each stream has sent before it arrives.
    pub long_words: usize,
    pub calm_pieces: usize,
    /// Most tokens of the three streams beside it: they must outlast it.
    pub long_streams: u32,
    pub sessions: usize,
    pub turns: u8,
    /// Tokens of an answer in a conversation, and words of each question there.
    pub turn_answer: u32,
    pub turn_words: usize,
    pub people: usize,
    pub think: Duration,
    pub people_for: Duration,
    /// Silence between two measurements: what a server does on the side belongs to itself.
    pub settle: Duration,
}

impl Scale {
    pub fn full() -> Self {
        Self {
            reps: 3,
            words: 45,
            answer: 128,
            long_words: 1100,
            calm_pieces: 24,
            long_streams: 400,
            sessions: 6,
            turns: 8,
            turn_answer: 64,
            turn_words: 30,
            people: 12,
            think: Duration::from_secs(20),
            people_for: Duration::from_secs(300),
            settle: Duration::from_secs(3),
        }
    }

    pub fn quick() -> Self {
        Self {
            reps: 1,
            answer: 32,
            calm_pieces: 8,
            sessions: 4,
            turns: 6,
            turn_answer: 24,
            people_for: Duration::from_secs(60),
            settle: Duration::from_secs(1),
            ..Self::full()
        }
    }
}

/// A server under load, and how conversations reach it.
#[derive(Clone, Debug)]
pub struct Server {
    pub client: Client,
    pub memory: Memory,
}

/// One measurement of one load on one server.
pub struct Round<'a> {
    pub server: &'a Server,
    pub scale: &'a Scale,
    pub seed: u64,
    pub rep: u32,
}

/// What a measurement found.
#[derive(Debug, Default)]
pub struct Findings {
    pub samples: Vec<(Figure, f64)>,
    /// Sentences for below the table.
    pub notes: Vec<String>,
}

impl Findings {
    fn add(&mut self, figure: Figure, value: f64) {
        self.samples.push((figure, value));
    }

    /// Adds the median of what there is.
    fn add_median(&mut self, figure: Figure, values: &[f64]) {
        if let Some(value) = figures::median(values) {
            self.add(figure, value);
        }
    }
}

impl Load {
    pub const ALL: [Self; 6] = [
        Self::Streams,
        Self::Repeating,
        Self::LongPrompt,
        Self::Sessions,
        Self::Identical,
        Self::People,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Repeating => "repeating",
            Self::LongPrompt => "long prompt",
            Self::Sessions => "sessions",
            Self::Identical => "identical",
            Self::People => "people",
        }
    }

    /// The long loads have many samples each and are run once.
    pub fn reps(self, scale: &Scale) -> u32 {
        match self {
            Self::Sessions | Self::People => 1,
            Self::Streams | Self::Repeating | Self::LongPrompt | Self::Identical => scale.reps,
        }
    }

    pub async fn measure(self, round: &Round<'_>) -> Result<Findings, AskError> {
        match self {
            Self::Streams => streams::measure(round).await,
            Self::Repeating => streams::measure_repeating(round).await,
            Self::LongPrompt => long_prompt::measure(round).await,
            Self::Sessions => sessions::measure(round).await,
            Self::Identical => identical::measure(round).await,
            Self::People => people::measure(round).await,
        }
    }
}

impl Round<'_> {
    /// The same texts for every server in this repetition of this load.
    fn texts(&self, load: Load) -> Texts {
        Texts::new(self.seed, u64::from(self.rep) * 100 + load as u64)
    }

    async fn settle(&self) {
        tokio::time::sleep(self.scale.settle).await;
    }
}
