//! models.lock: the hashes of what was fetched or verified, beside the models.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::ModelError;

const NAME: &str = "models.lock";
const HEAD: &str = "# Written by `stent models`: hashes of the models in this folder when they were\n\
                    # last verified. A model without a hash in the manifest must keep this one.\n\n";

#[derive(Clone, Debug)]
pub(super) struct Lock {
    path: PathBuf,
    records: Records,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Records {
    #[serde(default)]
    file: BTreeMap<String, Record>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Record {
    sha256: String,
    /// Size and time of the file when it had that hash; absent when it was found to differ.
    #[serde(default)]
    seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    size: u64,
    /// Seconds since 1970.
    modified: u64,
}

impl Lock {
    pub(super) fn load(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join(NAME);
        let records = match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| ModelError::Lock {
                path: path.clone(),
                problem: error.message().to_owned(),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Records::default(),
            Err(error) => return Err(ModelError::io("read", &path)(error)),
        };
        Ok(Self { path, records })
    }

    pub(super) fn sha256(&self, file: &str) -> Option<&str> {
        self.records
            .file
            .get(file)
            .map(|record| record.sha256.as_str())
    }

    /// Whether the file at `path` is the one that was verified, judged without reading it.
    pub(super) fn state(&self, file: &str, path: &Path) -> &'static str {
        match self.records.file.get(file).map(|record| record.seen) {
            Some(Some(seen)) if Seen::of(path).is_ok_and(|now| now == seen) => "yes",
            Some(_) => "no, changed since",
            None => "no",
        }
    }

    pub(super) fn record(
        &mut self,
        file: &str,
        path: &Path,
        sha256: &str,
    ) -> Result<(), ModelError> {
        let seen = Some(Seen::of(path).map_err(ModelError::io("look at", path))?);
        let record = Record {
            sha256: sha256.to_owned(),
            seen,
        };
        if self.records.file.insert(file.to_owned(), record.clone()) == Some(record) {
            return Ok(());
        }
        self.save()
    }

    /// The file no longer has its hash.
    pub(super) fn doubt(&mut self, file: &str) -> Result<(), ModelError> {
        let seen = self
            .records
            .file
            .get_mut(file)
            .and_then(|record| record.seen.take());
        if seen.is_some() { self.save() } else { Ok(()) }
    }

    /// Replaces the file as a whole, so that a crash leaves the old or the new one.
    fn save(&self) -> Result<(), ModelError> {
        let text = toml::to_string(&self.records).map_err(|error| ModelError::Lock {
            path: self.path.clone(),
            problem: error.to_string(),
        })?;
        let draft = self.path.with_extension("lock.new");
        fs::write(&draft, format!("{HEAD}{text}")).map_err(ModelError::io("write", &draft))?;
        fs::rename(&draft, &self.path).map_err(ModelError::io("replace", &self.path))
    }
}

impl Seen {
    fn of(path: &Path) -> std::io::Result<Self> {
        let meta = fs::metadata(path)?;
        let modified = meta
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            size: meta.len(),
            modified: modified.as_secs(),
        })
    }
}
