//! What lies in the policies folder. Looked at whole each time; events only say when to look.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::reload::Hint;

/// Changes whenever a file's content may have changed. Follows links, so that the switch of
/// Kubernetes' `..data` link is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub len: u64,
    inode: u64,
    modified: (i64, i64),
}

/// The `.wasm` files, by path. Dotfiles and `*.tmp` are ignored.
pub(super) fn scan(dir: &Path) -> io::Result<Vec<(PathBuf, Stamp)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || !name.ends_with(".wasm") {
            continue;
        }
        // A link whose target is just being switched has no metadata for a moment.
        if let Ok(stamp) = stamp(&path) {
            found.push((path, stamp));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

pub(super) fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let modified = (meta.mtime(), meta.mtime_nsec());
    Ok(Stamp {
        len: meta.len(),
        inode: meta.ino(),
        modified,
    })
}

/// `x.shadow.wasm` runs beside the live policy.
pub(super) fn is_shadow(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().ends_with(".shadow.wasm"))
}

/// `x.wasm.sig` beside `x.wasm`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Sends a hint for each event that may mean a change.
pub(super) fn watch(dir: &Path, hints: mpsc::Sender<Hint>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if is_worth_a_look(&event) {
            // Nobody listens any more when the gateway goes down.
            let _ = hints.send(Hint::Look);
        }
    })?;
    watcher.configure(notify::Config::default().with_poll_interval(Duration::from_secs(1)))?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn is_worth_a_look(event: &notify::Result<notify::Event>) -> bool {
    match event {
        // Our own reads raise open and close events; answering them would never end.
        Ok(event) => match event.kind {
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        },
        // The queue overflowed: something was missed.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::Flag;

    use super::*;

    /// All hints that come until none has come for a while.
    fn heard(inbox: &mpsc::Receiver<Hint>) -> usize {
        let quiet = Duration::from_millis(200);
        std::iter::from_fn(|| inbox.recv_timeout(quiet).ok()).count()
    }

    #[test]
    fn writing_is_heard_and_our_own_reading_is_not() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("t.wasm");
        fs::write(&file, b"one")?;
        let (hints, inbox) = mpsc::channel();
        let _watcher = watch(dir.path(), hints)?;
        for _ in 0..20 {
            scan(dir.path())?;
            fs::read(&file)?;
        }
        assert_eq!(
            heard(&inbox),
            0,
            "what we do ourselves would wake us for ever"
        );
        fs::write(&file, b"two")?;
        assert!(heard(&inbox) > 0);
        fs::rename(&file, dir.path().join("u.wasm"))?;
        assert!(heard(&inbox) > 0);
        fs::remove_file(dir.path().join("u.wasm"))?;
        assert!(heard(&inbox) > 0);
        Ok(())
    }

    #[test]
    fn an_overflowing_queue_means_looking_at_everything() {
        let missed = notify::Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(is_worth_a_look(&Ok(missed)));
        assert!(is_worth_a_look(&Err(notify::Error::generic("lost"))));
    }
}
