//! `stent policy …`: what an operator asks of a running gateway's policies, and what an author
//! does to a policy before it gets there. Everything is done by [`crate::policy`]; here it is
//! given words.

mod admin;
mod check;
mod diff;
mod golden;
mod keys;
mod project;
mod recorded;
mod setup;
mod speed;
mod table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

pub use admin::Remote;
pub use table::{Colour, Paint, Table};

use crate::config::ConfigError;
use crate::engine::StartError;
use crate::policy::{Hook, PolicyError, Rejection, Stage, Unmeasured};

/// Arguments of `stent policy`.
#[derive(Args, Clone, Debug)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// Show what serves, shadows and rejected files of a running gateway
    List(admin::Remote),
    /// Take a hook back to the policy that served before
    Rollback(admin::Change),
    /// Let a hook's shadow serve
    Promote(admin::Change),
    /// Give a hook's policy another config, until the gateway is started again
    Configure(admin::Configure),
    /// Show the kept revisions of a hook, and why they were replaced
    History(admin::Change),
    /// Show the last changes of a running gateway's policies
    Audit(admin::Remote),
    /// Write a project for a new policy
    New(project::New),
    /// Check a file against the contract and the limits
    Check(check::Check),
    /// Ask a policy its golden cases
    Test(golden::Test),
    /// Measure a policy's calls: time, memory, fuel
    Bench(speed::Bench),
    /// Take a file through all stages, as the gateway would, without letting it serve
    DryRun(check::DryRun),
    /// Ask a policy what a gateway has recorded (policies.record)
    Replay(recorded::Replay),
    /// Write a new signing key
    Keygen {
        /// The file, which must not exist
        keyfile: PathBuf,
    },
    /// Sign a file: FILE.wasm.sig is written beside it
    Sign(keys::Sign),
}

/// Why a command failed, in one sentence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("{0}; --model names another model")]
    Model(StartError),
    #[error("{file}: {rejection}", file = file.display())]
    Rejected { file: PathBuf, rejection: Rejection },
    #[error("{} would not serve: it does not pass {stage}", file.display())]
    WouldNotServe { file: PathBuf, stage: Stage },
    #[error("{}: {fault}", file.display())]
    Fault { file: PathBuf, fault: Unmeasured },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("standard output cannot be written: {0}")]
    Output(#[from] io::Error),
    #[error(
        "no gateway answers at {address}: start one with `stent serve`, or name the admin address \
         of one that runs with --admin"
    )]
    Unreachable { address: String },
    #[error("{address} {problem}")]
    Admin { address: String, problem: String },
    /// The report before it says which.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    fn rejected(file: &Path) -> impl FnOnce(Rejection) -> Self {
        let file = file.to_owned();
        move |rejection| Self::Rejected { file, rejection }
    }
}

/// Runs the command; its report goes to `out`. Blocks: call it outside of an async runtime.
///
/// # Errors
/// What the operator or author has to know; the process should end with a status that is not 0.
pub fn run(args: &PolicyArgs, out: &mut dyn Write) -> Result<(), Error> {
    match &args.command {
        Command::List(remote) => admin::list(remote, out),
        Command::Rollback(change) => admin::change(change, "rollback", out),
        Command::Promote(change) => admin::change(change, "promote", out),
        Command::Configure(configure) => admin::configure(configure, out),
        Command::History(of) => admin::history(of, out),
        Command::Audit(remote) => admin::audit(remote, out),
        Command::New(new) => new.run(out),
        Command::Check(check) => check.run(out),
        Command::Test(test) => test.run(out),
        Command::Bench(bench) => bench.run(out),
        Command::DryRun(dry_run) => dry_run.run(out),
        Command::Replay(replay) => replay.run(out),
        Command::Keygen { keyfile } => keys::generate(keyfile, out),
        Command::Sign(sign) => sign.run(out),
    }
}

fn hook(name: &str) -> Result<Hook, String> {
    let known = || Hook::ALL.map(Hook::as_str).join(", ");
    let found = Hook::ALL.into_iter().find(|hook| hook.as_str() == name);
    found.ok_or_else(|| format!("expected one of {}", known()))
}
