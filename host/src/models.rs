//! `stent models`: which models there are, getting them, and checking their bytes.

mod download;
mod hash;
mod lock;
mod manifest;
mod shelf;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use lock::Lock;
pub use manifest::{Entry, Manifest};
use shelf::{Failure, Shelf};

/// Arguments of `stent models`.
#[derive(Args, Clone, Debug)]
pub struct ModelsArgs {
    #[command(subcommand)]
    pub command: Command,
    /// Folder that holds the models and models.lock.
    #[arg(long, global = true, default_value = "models", value_name = "DIR")]
    pub dir: PathBuf,
    /// A manifest in place of the one that came with Stent.
    #[arg(long, global = true, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Show the known models and which of them are here.
    List,
    /// Download a model, going on where an earlier attempt was cut off.
    Pull(PullArgs),
    /// Hash the models that are here and compare.
    Verify {
        /// Only this one.
        name: Option<String>,
    },
}

#[derive(Args, Clone, Debug)]
pub struct PullArgs {
    /// The model's name, as `stent models list` shows it.
    pub name: String,
    /// Fetch from this address in place of the manifest's source.
    #[arg(long, env = "STENT_MODELS_MIRROR", value_name = "URL")]
    pub mirror: Option<String>,
    /// Accept a model whose hash is not known, and record the hash of what comes.
    #[arg(long)]
    pub trust_first_use: bool,
    /// Attempts in a row that may fail without a byte gained.
    #[arg(long, default_value_t = 6, value_name = "N")]
    pub retries: u32,
    /// Seconds without a byte after which an attempt counts as failed.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{path}: cannot {action}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}: not a manifest: {problem}")]
    Manifest { path: String, problem: String },
    #[error("{path}: not a lock file: {problem}; remove it to start anew")]
    Lock { path: PathBuf, problem: String },
    #[error("no model is called {found:?}, expected one of {known}")]
    Unknown { found: String, known: String },
    #[error("{name} comes with Stent as {path}, which is missing; there is nothing to download")]
    Bundled { name: String, path: PathBuf },
    #[error(
        "the hash of {name} is not known: add --trust-first-use to accept what the server sends \
         and record its hash in models.lock"
    )]
    NoHash { name: String },
    #[error("{path}: sha256 is {found}, expected {expected}{hint}")]
    WrongBytes {
        path: PathBuf,
        found: String,
        expected: String,
        hint: &'static str,
    },
    #[error("{0} of the models are not what they should be")]
    Verify(usize),
    #[error("{path}: another download of this model is running")]
    Busy { path: PathBuf },
    #[error("{url}: the server answered {status}, expected 200 or 206{hint}")]
    Status {
        url: String,
        status: u16,
        hint: &'static str,
    },
    #[error(
        "{url}: gave up after {attempts} attempts in a row without a byte: {problem}; {kept} bytes are kept, run the same command to go on"
    )]
    GaveUp {
        url: String,
        attempts: u32,
        problem: String,
        kept: u64,
    },
    #[error("the HTTP client could not be made: {0}")]
    Client(String),
}

impl ModelError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// Runs the command; its report goes to `out`. Blocks: call it outside of an async runtime.
pub fn run(args: &ModelsArgs, out: &mut dyn Write) -> Result<(), ModelError> {
    let manifest = Manifest::load(args.manifest.as_deref())?;
    let lock = Lock::load(&args.dir)?;
    let shelf = Shelf {
        dir: &args.dir,
        manifest,
        lock,
    };
    match &args.command {
        Command::List => shelf.list(out),
        Command::Pull(pull) => shelf.pull(pull, out),
        Command::Verify { name } => shelf.verify(name.as_deref(), out),
    }
    .map_err(|error| match error {
        Failure::Model(error) => error,
        Failure::Report(source) => ModelError::io("write to", Path::new("standard output"))(source),
    })
}

/// Whether a file is the model that its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    Known {
        name: String,
        sha256: String,
    },
    Wrong {
        name: String,
        found: String,
        expected: String,
    },
    /// Neither the manifest nor models.lock has a hash for such a file.
    Unknown {
        sha256: String,
    },
}

/// Hashes the file and compares it with the manifest, and with models.lock beside it.
///
/// # Errors
/// When the file or the lock cannot be read.
pub fn identify(path: &Path) -> Result<Identity, ModelError> {
    let found = hash::file(path)?;
    let manifest = Manifest::load(None)?;
    let Some(entry) = manifest.model.iter().find(|m| path.ends_with(&m.file)) else {
        return Ok(Identity::Unknown { sha256: found });
    };
    let depth = Path::new(&entry.file).components().count();
    let dir = path.ancestors().nth(depth).unwrap_or(Path::new(""));
    let lock = Lock::load(dir)?;
    let expected = entry.sha256.as_deref().or_else(|| lock.sha256(&entry.file));
    let name = entry.name.clone();
    Ok(match expected {
        None => Identity::Unknown { sha256: found },
        Some(expected) if expected == found => Identity::Known {
            name,
            sha256: found,
        },
        Some(expected) => Identity::Wrong {
            name,
            found,
            expected: expected.to_owned(),
        },
    })
}
