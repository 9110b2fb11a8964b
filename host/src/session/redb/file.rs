//! The file itself: made so that only its owner reads it, and opened for several processes.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use redb::{Builder, ConcurrencyMode, Database};

use super::FILE;
use crate::session::error::SessionError;

/// Pages that stay in memory; the system's own cache holds the rest.
const CACHE: usize = 32 << 20;

pub struct File {
    path: PathBuf,
    open: Open,
}

/// How it is opened: tests have one that fails.
type Open = Box<dyn Fn(&Path) -> Result<Database, redb::Error> + Send>;

impl File {
    /// The file in this folder; both are made where they are not there.
    pub fn of(data: &Path) -> Result<Self, SessionError> {
        let path = data.join(FILE);
        let unusable = |error: io::Error| {
            SessionError::Open(told(&path, format_args!("cannot be used: {error}")))
        };
        let parent = data
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        if !data.exists() {
            std::fs::create_dir_all(data).map_err(unusable)?;
            // A folder is there after a power cut only if its parent was written too.
            sync(parent.unwrap_or(Path::new("."))).map_err(unusable)?;
        }
        match private().create_new(true).open(&path) {
            Ok(file) => {
                file.sync_all().map_err(unusable)?;
                sync(data).map_err(unusable)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(unusable(error)),
        }
        Ok(Self {
            path,
            open: Box::new(open),
        })
    }

    #[cfg(test)]
    pub fn with(self, open: Open) -> Self {
        Self { open, ..self }
    }

    pub fn open(&self) -> Result<Database, SessionError> {
        (self.open)(&self.path).map_err(|error| self.unusable(&error))
    }

    /// The error of an opening in a sentence.
    pub fn unusable(&self, error: &redb::Error) -> SessionError {
        self.refused(match error {
            redb::Error::DatabaseAlreadyOpen => "is in use by another program".to_owned(),
            redb::Error::LockProtocolMismatch => {
                "is in use by a version of Stent that cannot share it; expected that one to be \
                 stopped first"
                    .to_owned()
            }
            redb::Error::UpgradeRequired(_) => "has an older file format".to_owned(),
            error => format!("cannot be opened: {error}"),
        })
    }

    pub fn refused(&self, why: impl std::fmt::Display) -> SessionError {
        SessionError::Open(told(&self.path, why))
    }
}

fn told(path: &Path, why: impl std::fmt::Display) -> String {
    format!("sessions.store: {} {why}", path.display())
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    Ok(Builder::new()
        .set_cache_size(CACHE)
        .set_concurrency_mode(ConcurrencyMode::MultiWriter)
        .create(path)?)
}

/// For a file that only its owner can read.
pub fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn sync(folder: &Path) -> io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}
