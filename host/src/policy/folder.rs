//! What lies in the policies folder. Looked at whole each time; events only say when to look.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::reload::Hint;

/// Changes whenever a file may be another one to the stages: content, rights, or what lies beside
/// it. Follows links, so that the switch of Kubernetes' `..data` link is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub len: u64,
    own: Mark,
    /// Of the signature and of the golden cases: they may come after the file.
    companions: [Option<Mark>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    inode: u64,
    len: u64,
    modified: (i64, i64),
    /// Also changes with the rights.
    changed: (i64, i64),
}

/// Tells a folder from another one under the same name. An inode's number may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

pub(super) fn identity(dir: &Path) -> io::Result<Identity> {
    let meta = fs::metadata(dir)?;
    Ok(Identity {
        device: meta.dev(),
        inode: meta.ino(),
        // Not every file system knows.
        born: meta.created().ok(),
    })
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
    let companion = |path: PathBuf| Some(mark(&fs::metadata(path).ok()?));
    Ok(Stamp {
        len: meta.len(),
        own: mark(&meta),
        companions: [companion(signature(path)), companion(cases(path))],
    })
}

fn mark(meta: &fs::Metadata) -> Mark {
    Mark {
        inode: meta.ino(),
        len: meta.len(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    }
}

/// `x.wasm.sig` beside `x.wasm`.
pub(super) fn signature(path: &Path) -> PathBuf {
    beside(path, ".sig")
}

/// `x.cases.json` beside `x.wasm`.
pub(super) fn cases(path: &Path) -> PathBuf {
    beside(&path.with_extension(""), ".cases.json")
}

/// `x.shadow.wasm` runs beside the live policy.
pub(super) fn is_shadow(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().ends_with(".shadow.wasm"))
}

/// `x.wasm` for `x.shadow.wasm`; `x.promoted.wasm` for an `x.wasm` that the settings made a shadow,
/// because under its old name it would be one again.
pub(super) fn promoted(path: &Path) -> PathBuf {
    let name = name(path);
    let promoted = match name.strip_suffix(".shadow.wasm") {
        Some(name) => format!("{name}.wasm"),
        None => format!("{}.promoted.wasm", name.trim_end_matches(".wasm")),
    };
    path.with_file_name(promoted)
}

/// The file's name as the settings may give it.
pub(super) fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// The path with more at its end.
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
    fn rights_and_companions_are_part_of_the_stamp() -> Result<(), Box<dyn std::error::Error>> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("t.wasm");
        fs::write(&file, b"one")?;
        let mut before = stamp(&file)?;
        let mut is_another = || -> io::Result<bool> {
            let last = std::mem::replace(&mut before, stamp(&file)?);
            Ok(last != before)
        };
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400))?;
        assert!(is_another()?);
        fs::write(dir.path().join("t.wasm.sig"), b"signed")?;
        assert!(is_another()?);
        fs::write(dir.path().join("t.cases.json"), b"[]")?;
        assert!(is_another()?);
        fs::read(&file)?;
        assert!(!is_another()?, "our own reading changes nothing");
        Ok(())
    }

    #[test]
    fn an_overflowing_queue_means_looking_at_everything() {
        let missed = notify::Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(is_worth_a_look(&Ok(missed)));
        assert!(is_worth_a_look(&Err(notify::Error::generic("lost"))));
    }
}
