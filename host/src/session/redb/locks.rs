//! One writer a session among the processes that have the file open. Each session is a byte of a
//! file of its own, and who writes to the session has that byte locked: the kernel gives the lock
//! back when its process dies.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use sha2::{Digest, Sha256};

use super::file::private;
use crate::session::error::SessionError;
use crate::types::SessionKey;

/// The file within `data.dir`; it stays empty.
const FILE: &str = "sessions.lock";

pub struct Locks(Arc<File>);

/// Given back when dropped. Within a process the locks are one holder's: who asks for one has the
/// session's turn there, and drops the lock before that.
pub struct Lock {
    file: Arc<File>,
    at: i64,
}

impl Locks {
    pub fn open(data: &Path) -> Result<Self, SessionError> {
        let path = data.join(FILE);
        let file = private().create(true).truncate(false).open(&path);
        let file = file.map_err(|error| {
            SessionError::Open(format!(
                "sessions.store: {} cannot be used: {error}",
                path.display()
            ))
        })?;
        Ok(Self(Arc::new(file)))
    }

    /// `None` while another process has it.
    pub fn take(&self, key: &SessionKey) -> Result<Option<Lock>, SessionError> {
        let at = place(key);
        match set(&self.0, libc::F_WRLCK, at) {
            Ok(()) => Ok(Some(Lock {
                file: Arc::clone(&self.0),
                at,
            })),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(error) => Err(SessionError::Store {
                kind: "io",
                why: format!("{FILE}: {}", io::Error::from(error)),
            }),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // It cannot fail; were it so, the lock would end with the process.
        let _ = set(&self.file, libc::F_UNLCK, self.at);
    }
}

/// Where a session's byte lies: two sessions that met at one would only wait for each other.
fn place(key: &SessionKey) -> i64 {
    let mut hash = Sha256::new();
    for part in [key.tenant.as_str(), key.session.as_str()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let first = digest.first_chunk().copied().unwrap_or_default();
    // A byte's place is no larger than 2^63 - 2.
    i64::try_from(u64::from_be_bytes(first) >> 2).unwrap_or_default()
}

/// Locks of an open file description: others of this process have nothing to do with them.
fn set(file: &File, kind: i32, at: i64) -> nix::Result<()> {
    let range = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&range)).map(drop)
}
