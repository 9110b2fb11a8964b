//! Whether the model is really locked in RAM. llama.cpp goes on when `mlock` fails, so the kernel is
//! asked afterwards.

#![expect(
    unsafe_code,
    reason = "limits are asked of the kernel, memory is given back to it"
)]

use std::fmt;

/// What came of `engine.mlock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    NotAsked,
    Locked {
        bytes: u64,
        model: u64,
    },
    /// No lock was refused, and yet there is less locked than the model is large.
    Partly {
        locked: u64,
        model: u64,
    },
    Failed {
        locked: u64,
        wanted: u64,
        limit: Option<u64>,
    },
}

/// Says what the kernel has locked of the `wanted` bytes since `before`; `refused`: whether a call
/// to `mlock` failed on the way.
pub fn judge(wanted: u64, before: u64, after: u64, refused: bool, limit: Option<u64>) -> Lock {
    let locked = after.saturating_sub(before);
    if refused || locked == 0 {
        Lock::Failed {
            locked,
            wanted,
            limit,
        }
    } else if locked + SLACK < wanted {
        Lock::Partly {
            locked,
            model: wanted,
        }
    } else {
        Lock::Locked {
            bytes: locked,
            model: wanted,
        }
    }
}

/// The kernel counts whole pages of every piece, and the file's size is not quite the tensors'.
const SLACK: u64 = 1 << 20;

impl Lock {
    /// What is locked for sure.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Locked { bytes: locked, .. } | Self::Partly { locked, .. } => locked,
            Self::NotAsked | Self::Failed { .. } => 0,
        }
    }
}

/// `VmLck` of this process in bytes; 0 where the kernel does not tell.
pub fn locked() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    vm_lck(&status).unwrap_or(0)
}

fn vm_lck(status: &str) -> Option<u64> {
    kib(status, "VmLck:")
}

/// The bytes behind a name that the kernel gives in kB.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// `VmRSS` of this process in bytes; 0 where the kernel does not tell.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    kib(&status, "VmRSS:").unwrap_or(0)
}

/// Gives memory back to the kernel that llama.cpp has freed and the system's allocator keeps for later.
/// Stent's own allocator gives back by itself what lies idle for some milliseconds.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time from any thread; it only unmaps free pages.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// RAM of this machine in bytes, where the kernel tells.
pub fn total() -> Option<u64> {
    let about = std::fs::read_to_string("/proc/meminfo").ok()?;
    kib(&about, "MemTotal:")
}

/// RAM that a new program could have, in bytes.
pub fn available() -> Option<u64> {
    let about = std::fs::read_to_string("/proc/meminfo").ok()?;
    kib(&about, "MemAvailable:")
}

/// RLIMIT_MEMLOCK of this process; `None`: unlimited.
pub fn limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes one rlimit to the valid pointer that it is given.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } != 0;
    (!failed && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Lock::NotAsked => write!(f, "engine.mlock is off: the model may be swapped out"),
            Lock::Locked { bytes, model } => write!(
                f,
                "{} of the model's {} MiB are locked in RAM",
                // Pages and packed weights come to a little more than the file's.
                bytes.min(model) >> 20,
                model >> 20
            ),
            Lock::Partly { locked, model } => write!(
                f,
                "{} of the model's {} MiB are locked in RAM, {} MiB are not: they are copies in a \
                 form that suits the CPU, in memory that engine.mlock does not cover",
                locked >> 20,
                model >> 20,
                (model - locked) >> 20
            ),
            Lock::Failed {
                locked,
                wanted,
                limit,
            } => {
                let (locked, wanted) = (locked >> 10, wanted >> 10);
                write!(
                    f,
                    "engine.mlock: only {locked} of {wanted} KiB are locked in RAM, "
                )?;
                match limit {
                    Some(limit) => write!(
                        f,
                        "because `ulimit -l` is {} KiB; raise it to {wanted} (systemd: LimitMEMLOCK) \
                         or set engine.mlock = false",
                        limit >> 10
                    ),
                    None => write!(f, "although `ulimit -l` is unlimited: not enough free RAM"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_did_not_happen_is_never_claimed() {
        let locked = judge(4000, 100, 4100, false, None);
        assert_eq!(
            locked,
            Lock::Locked {
                bytes: 4000,
                model: 4000
            }
        );
        assert!(matches!(
            judge(4000, 100, 100, false, None),
            Lock::Failed { .. }
        ));
        assert_eq!(
            judge(4000 << 20, 0, 1500 << 20, false, None).to_string(),
            "1500 of the model's 4000 MiB are locked in RAM, 2500 MiB are not: they are copies in a \
             form that suits the CPU, in memory that engine.mlock does not cover"
        );
        let failed = judge(4 << 20, 0, 64 << 10, true, Some(64 << 10));
        assert_eq!(
            failed.to_string(),
            "engine.mlock: only 64 of 4096 KiB are locked in RAM, because `ulimit -l` is 64 KiB; \
             raise it to 4096 (systemd: LimitMEMLOCK) or set engine.mlock = false"
        );
    }

    #[test]
    fn the_kernels_words_are_understood() {
        assert_eq!(
            vm_lck("VmPeak:\t 1 kB\nVmLck:\t    2048 kB\nVmPin:\t0 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(vm_lck("nothing"), None);
    }
}
