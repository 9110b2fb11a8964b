//! Where the workbench compiles.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use crate::policy::policies::PolicyError;

/// What errors call the folder that is deleted afterwards.
pub(super) const SCRATCH: &str = "the temporary folder";

/// A folder that nobody else can read or write; it goes with the workbench.
pub(in crate::policy) struct Scratch(pub PathBuf);

impl Scratch {
    pub(super) fn make() -> Result<Self, PolicyError> {
        let name = format!(
            "stent-policy-{}-{:08x}",
            std::process::id(),
            fastrand::u32(..)
        );
        let path = std::env::temp_dir().join(name);
        // Fails where somebody else has made it: what lies in it is run.
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        match made {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(PolicyError::Files {
                key: SCRATCH,
                path,
                source,
            }),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind costs only room on disk.
        let _ = fs::remove_dir_all(&self.0);
    }
}
