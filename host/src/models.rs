//! `stent models`: which models there are, getting them, and checking their bytes.

mod download;
mod hash;
mod lock;
mod manifest;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use download::Download;
use lock::Lock;
pub use manifest::{Entry, Manifest};

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

/// The models folder with what is known about it.
struct Shelf<'a> {
    dir: &'a Path,
    manifest: Manifest,
    lock: Lock,
}

/// What can go wrong inside a command: its own errors, or nobody reads the report.
enum Failure {
    Model(ModelError),
    Report(io::Error),
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Report(error)
    }
}

impl Shelf<'_> {
    fn list(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let widest = self
            .manifest
            .model
            .iter()
            .map(|m| m.name.len())
            .max()
            .unwrap_or(4);
        writeln!(
            out,
            "{:widest$}  {:>8}  {:10}  {:7}  VERIFIED",
            "NAME", "SIZE", "LICENCE", "PRESENT"
        )?;
        for entry in &self.manifest.model {
            let path = self.dir.join(&entry.file);
            let present = if path.is_file() { "yes" } else { "no" };
            let verified = match present {
                "yes" => self.lock.state(&entry.file, &path),
                _ => "-",
            };
            let size = path.metadata().map(|meta| meta.len()).ok().or(entry.size);
            let (name, size, licence) = (&entry.name, human(size), &entry.licence);
            writeln!(
                out,
                "{name:widest$}  {size:>8}  {licence:10}  {present:7}  {verified}"
            )?;
        }
        Ok(())
    }

    fn pull(mut self, args: &PullArgs, out: &mut dyn Write) -> Result<(), Failure> {
        let entry = self.manifest.find(&args.name)?.clone();
        let path = self.dir.join(&entry.file);
        let expected = self.expected(&entry).map(str::to_owned);
        if path.is_file() {
            return self.already_here(&entry, &path, expected, args.trust_first_use, out);
        }
        let Some(url) = entry.url(args.mirror.as_deref()) else {
            return Err(ModelError::Bundled {
                name: entry.name,
                path,
            }
            .into());
        };
        if expected.is_none() && !args.trust_first_use {
            return Err(ModelError::NoHash { name: entry.name }.into());
        }
        writeln!(out, "{}: {} from {url}", entry.name, human(entry.size))?;
        let sha256 = Download {
            url: &url,
            path: &path,
            expected: expected.as_deref(),
            retries: args.retries,
            timeout: Duration::from_secs(args.timeout),
        }
        .run()?;
        self.lock.record(&entry.file, &path, &sha256)?;
        let how = if expected.is_some() {
            "as expected"
        } else {
            "recorded at first use"
        };
        writeln!(out, "{}: sha256 {sha256}, {how}", path.display())?;
        Ok(())
    }

    fn already_here(
        &mut self,
        entry: &Entry,
        path: &Path,
        expected: Option<String>,
        trust: bool,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let found = hash::file(path)?;
        match expected {
            Some(expected) if expected != found => {
                let hint = "; move it away to download it again";
                Err(ModelError::WrongBytes {
                    path: path.to_owned(),
                    found,
                    expected,
                    hint,
                }
                .into())
            }
            None if !trust => Err(ModelError::NoHash {
                name: entry.name.clone(),
            }
            .into()),
            _ => {
                self.lock.record(&entry.file, path, &found)?;
                Ok(writeln!(
                    out,
                    "{}: already here, sha256 {found}",
                    path.display()
                )?)
            }
        }
    }

    fn verify(mut self, name: Option<&str>, out: &mut dyn Write) -> Result<(), Failure> {
        let entries: Vec<Entry> = match name {
            Some(name) => vec![self.manifest.find(name)?.clone()],
            None => self.manifest.model.clone(),
        };
        let mut wrong = 0;
        for entry in entries {
            let path = self.dir.join(&entry.file);
            if !path.is_file() {
                wrong += usize::from(name.is_some());
                writeln!(out, "{}: not here", entry.name)?;
                continue;
            }
            let found = hash::file(&path)?;
            match self.expected(&entry).map(str::to_owned) {
                Some(expected) if expected == found => {
                    self.lock.record(&entry.file, &path, &found)?;
                    writeln!(out, "{}: ok, sha256 {found}", entry.name)?;
                }
                Some(expected) => {
                    wrong += 1;
                    self.lock.doubt(&entry.file)?;
                    writeln!(
                        out,
                        "{}: WRONG, sha256 {found}, expected {expected}",
                        entry.name
                    )?;
                }
                None => writeln!(out, "{}: sha256 {found}, none to compare with", entry.name)?,
            }
        }
        if wrong > 0 {
            Err(ModelError::Verify(wrong).into())
        } else {
            Ok(())
        }
    }

    /// The manifest's hash goes before one that was recorded at first use.
    fn expected<'a>(&'a self, entry: &'a Entry) -> Option<&'a str> {
        entry
            .sha256
            .as_deref()
            .or_else(|| self.lock.sha256(&entry.file))
    }
}

/// Sizes as the sources of models write them: powers of ten.
fn human(bytes: Option<u64>) -> String {
    let Some(bytes) = bytes else {
        return "-".to_owned();
    };
    let (value, unit) = match bytes {
        1_000_000_000.. => (bytes as f64 / 1e9, "GB"),
        1_000_000.. => (bytes as f64 / 1e6, "MB"),
        _ => (bytes as f64 / 1e3, "kB"),
    };
    format!("{value:.2} {unit}")
}
