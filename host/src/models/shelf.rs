//! The folder of models: what is there, what it should be, and getting it.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::download::Download;
use super::lock::Lock;
use super::manifest::{Entry, Manifest};
use super::{ModelError, PullArgs, hash};

/// The models folder with what is known about it.
pub struct Shelf<'a> {
    pub dir: &'a Path,
    pub manifest: Manifest,
    pub lock: Lock,
}

/// What can go wrong inside a command: its own errors, or nobody reads the report.
pub enum Failure {
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
    pub fn list(&self, out: &mut dyn Write) -> Result<(), Failure> {
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

    pub fn pull(mut self, args: &PullArgs, out: &mut dyn Write) -> Result<(), Failure> {
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

    pub fn verify(mut self, name: Option<&str>, out: &mut dyn Write) -> Result<(), Failure> {
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
