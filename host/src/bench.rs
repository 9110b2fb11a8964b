//! `stent bench URL`: what the people at the other end of a chat server would see. Drives any
//! OpenAI-compatible server, and a second one beside it in turns (`--peer`), so that both are
//! measured on the same machine in the same quarter of an hour.
//!
//! `stent bench make-model` writes the model that the figures are taken with: BioMistral-7B's
//! shapes and costs, a fixed text ([`crate::engine::shape`]).

use std::path::PathBuf;

pub mod answer;
pub mod client;
pub mod figures;
pub mod loads;
pub mod make;
pub mod memory;
pub mod progress;
pub mod report;
pub mod run;
pub mod sse;
pub mod texts;

pub use loads::Load;

/// `stent bench …`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    make: Option<Make>,
    #[command(flatten)]
    drive: Option<Drive>,
}

#[derive(Debug, clap::Subcommand)]
enum Make {
    /// Write a model with BioMistral-7B's tensor shapes whose greedy text is a fixed chain of words
    MakeModel(make::Args),
}

/// What is measured, and where.
#[derive(Clone, Debug, clap::Args)]
pub struct Drive {
    /// The server, without /v1: `http://127.0.0.1:8080`
    #[arg(required = true)]
    pub url: String,
    /// A second server with the same model, measured in turns with the first
    #[arg(long, value_name = "URL")]
    pub peer: Option<String>,
    /// Write every sample to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Only these loads
    #[arg(long, value_delimiter = ',', value_enum)]
    pub only: Vec<Load>,
    /// Short answers, one repetition, one minute of people: a look, not a measurement
    #[arg(long)]
    pub quick: bool,
    /// Repetitions of each short load; medians are shown [default: 3, with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub reps: Option<u32>,
    /// Fixes the texts and the thinking times. Without it the clock does, so that no server has
    /// seen a question before
    #[arg(long)]
    pub seed: Option<u64>,
    /// How a conversation reaches the first server. The peer always gets the whole history
    #[arg(long, value_enum, default_value_t)]
    pub memory: Memory,
    /// Bearer token for both servers
    #[arg(long, env = "STENT_BENCH_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Process of the first server: its memory is shown
    #[arg(long)]
    pub pid: Option<u32>,
    /// Process of the peer: its memory is shown
    #[arg(long)]
    pub peer_pid: Option<u32>,
    /// Fail when a target is missed
    #[arg(long)]
    pub check: bool,
}

/// Who remembers a conversation between its turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Memory {
    /// The client: every request carries the last exchanges, as any OpenAI client does it.
    #[default]
    History,
    /// The client, and `session_id` says whose conversation it is.
    Named,
    /// The server, by `session_id`: a request carries only the new message.
    Stored,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{url}: {problem}, expected an http:// address such as http://127.0.0.1:8080")]
    Address { url: String, problem: &'static str },
    #[error("{url} does not answer as an OpenAI-compatible server")]
    Unfit {
        url: String,
        #[source]
        source: client::AskError,
    },
    #[error("{}: cannot be written", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot set up the benchmark's client")]
    Setup(#[source] std::io::Error),
    #[error(transparent)]
    Shape(#[from] crate::engine::shape::ShapeError),
    #[error("{failed} of {all} measurements failed; the table says which")]
    Failed { failed: usize, all: usize },
    #[error("{missed} of {all} targets missed")]
    Missed { missed: usize, all: usize },
}

/// Runs the command to its end, on a runtime of its own; must not be called from within one.
pub fn run(args: Args) -> Result<(), Error> {
    if let Some(Make::MakeModel(make)) = args.make {
        return make::run(&make);
    }
    let Some(drive) = args.drive else {
        return Err(Error::Address {
            url: "URL".into(),
            problem: "is missing",
        });
    };
    // One thread: the client must not compete with a server on the same machine.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Setup)?;
    runtime.block_on(run::drive(&drive))
}
