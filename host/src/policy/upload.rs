//! A file that comes over HTTP: put into the folder whole, like any other.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::policies::{Policies, PolicyError};
use super::types::PolicyList;

/// Longest name of a file, and the ends that it may have: policies, signatures, golden cases.
const LONGEST: usize = 100;
const ENDS: [&str; 3] = [".wasm", ".wasm.sig", ".cases.json"];

impl Policies {
    /// Puts `bytes` into the policies folder as `name`, in one step, and returns when they serve or
    /// are rejected. A file of that name is replaced; what serves goes on until then.
    ///
    /// # Errors
    /// [`PolicyError::Name`] for anything but a plain name, [`PolicyError::Files`] where the folder
    /// cannot be written to.
    pub async fn upload(&self, name: &str, bytes: Vec<u8>) -> Result<PolicyList, PolicyError> {
        check(name)?;
        let path = self.core.shared.settings.dir.join(name);
        let written = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || put(&path, &bytes))
        };
        let written = written.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        let key = "policies.dir";
        written.map_err(|source| PolicyError::Files { key, path, source })?;
        self.reload().await
    }
}

fn check(name: &str) -> Result<(), PolicyError> {
    let wrong = |expected| {
        let name = name.chars().take(LONGEST).collect();
        Err(PolicyError::Name { name, expected })
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ['.', '-', '_'].contains(&c);
    if !name.chars().all(plain) || name.starts_with(['.', '-']) || name.len() > LONGEST {
        return wrong(
            "a file name of at most 100 letters, digits, \".\", \"-\" and \"_\", beginning with a \
             letter, a digit or \"_\"",
        );
    }
    let ended = |end: &&str| name.len() > end.len() && name.ends_with(*end);
    match ENDS.iter().any(ended) {
        true => Ok(()),
        false => wrong("a name that ends with .wasm, .wasm.sig or .cases.json"),
    }
}

/// Nobody sees half a file: it is written under a name that is ignored, and renamed.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut bits = [0; 6];
    getrandom::fill(&mut bits).map_err(io::Error::other)?;
    let half: PathBuf = path.with_file_name(format!(".upload-{}.tmp", hex::encode(bits)));
    let write = || {
        let mut file = fs::File::create_new(&half)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&half, path)
    };
    let written = write();
    if written.is_err() {
        // It may not even be there.
        let _ = fs::remove_file(&half);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_taken() {
        for good in [
            "a.wasm",
            "my-trim_2.shadow.wasm",
            "a.wasm.sig",
            "a.cases.json",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        let long = format!("{}.wasm", "a".repeat(100));
        for bad in [
            "",
            ".wasm",
            "a",
            "a.txt",
            "../a.wasm",
            "a/b.wasm",
            "a\\b.wasm",
            ".a.wasm",
            "-a.wasm",
            "a b.wasm",
            "a\0.wasm",
            "\u{e4}.wasm",
            "a.wasm.tmp",
            &long,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
