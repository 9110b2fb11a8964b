//! Folders: room and rights of the data folder, and every file in the policies folder.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::memory::size;
use super::report::Line;
use crate::config::Config;
use crate::engine::{self, Kind};
use crate::http;
use crate::policy::Workbench;
use crate::session::{self, Keys, Where};
use crate::tls::Named;

/// Less than this is soon full; less than `FULL` is.
const TIGHT: u64 = 2 << 30;
const FULL: u64 = 200 << 20;

/// What is known of a folder, or of the nearest one above it that exists.
struct Place {
    nearest: PathBuf,
    free: Option<u64>,
    writable: bool,
}

fn look(path: &Path) -> Place {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = path.ancestors().find(|part| part.is_dir());
    let nearest = there.unwrap_or(Path::new("/")).to_owned();
    let about = rustix::fs::statvfs(&nearest);
    Place {
        free: about.ok().map(|a| a.f_bavail.saturating_mul(a.f_frsize)),
        writable: rustix::fs::access(&nearest, rustix::fs::Access::WRITE_OK).is_ok(),
        nearest,
    }
}

pub fn disk(data: &Path) -> Vec<Line> {
    vec![disk_line(data, &look(data))]
}

fn disk_line(data: &Path, place: &Place) -> Line {
    const CHECK: &str = "disk.data";
    let (data, nearest) = (data.display(), place.nearest.display());
    let room = "make room, or put data.dir on a larger disk";
    match place.free {
        _ if !place.writable => Line::bad(
            CHECK,
            format!("{data}: {nearest} cannot be written to by this user"),
            "run this as the service's user; the folder must belong to it",
        ),
        Some(free) if free < FULL => Line::bad(CHECK, format!("{data}: {} free", size(free)), room),
        Some(free) if free < TIGHT => {
            Line::warn(CHECK, format!("{data}: {} free", size(free)), room)
        }
        Some(free) => Line::good(CHECK, format!("{data}: {} free", size(free))),
        None => Line::warn(
            CHECK,
            format!("{data}: the free space is not told"),
            "look at it with df",
        ),
    }
}

/// The two files of each address, where there are any.
pub fn certificates(settings: &http::Settings) -> Vec<Line> {
    const CHECK: &str = "tls";
    let both = [
        (settings.certificates(), &settings.tls_cert, Named::PUBLIC),
        (
            settings.admin_certificates(),
            &settings.admin_tls_cert,
            Named::ADMIN,
        ),
    ];
    let line = |(loaded, cert, named): (Result<Option<_>, _>, &PathBuf, Named)| match loaded {
        Ok(None) => None,
        Ok(Some(_)) => Some(Line::good(CHECK, format!("{} serves", cert.display()))),
        Err(error) => Some(Line::bad(
            CHECK,
            error,
            format!(
                "correct {} and {}, or let the service's user read them",
                named.cert, named.key
            ),
        )),
    };
    both.into_iter().filter_map(line).collect()
}

/// Where people's histories will lie, and whether their keys are there.
pub fn sessions(config: &Config) -> Line {
    const CHECK: &str = "sessions";
    if let Err(problem) = Keys::of_sessions(config.sessions.encrypt) {
        let todo = "a start refuses this: set the variable, or sessions.encrypt = false";
        return Line::bad(CHECK, problem, todo);
    }
    let sealed = match config.sessions.encrypt {
        true => "encrypted",
        false => "not encrypted",
    };
    match &config.sessions.store {
        Where::Memory => Line::good(CHECK, "in memory: they end with the process"),
        Where::Redis(address) => Line::good(CHECK, format!("in {address}, {sealed}")),
        Where::Redb => sessions_file(&config.data.dir.join(session::FILE), sealed),
    }
}

fn sessions_file(file: &Path, sealed: &str) -> Line {
    const CHECK: &str = "sessions";
    let shown = file.display();
    let Ok(about) = std::fs::metadata(file) else {
        return Line::good(CHECK, format!("{shown}, {sealed}; a start makes it"));
    };
    let both = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
    if rustix::fs::access(file, both).is_err() {
        return Line::bad(
            CHECK,
            format!("{shown} cannot be read and written by this user"),
            "run this as the service's user; the file must belong to it",
        );
    }
    let found = format!("{shown}: {}, {sealed}", size(about.len()));
    match about.permissions().mode() & 0o077 {
        0 => Line::good(CHECK, found),
        _ => Line::warn(
            CHECK,
            format!("{found}; others can read it"),
            format!("chmod 600 {shown}"),
        ),
    }
}

/// Every file goes through all stages that a running gateway has, swap excepted.
pub fn policies(config: &Config) -> Vec<Line> {
    const CHECK: &str = "policies";
    let dir = &config.policies.dir;
    let bench = match workbench(config) {
        Ok(bench) => bench,
        Err(problem) => {
            return vec![Line::bad(
                CHECK,
                problem,
                "correct policies.* or the model, then run this again",
            )];
        }
    };
    let mut lines = Vec::new();
    if let Err(error) = bench.bundled() {
        let todo = "correct policies.HOOK.config: the bundled policies must take it";
        lines.push(Line::bad(CHECK, error, todo));
    }
    let files = match wasm_files(dir) {
        Ok(files) => files,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let found = format!("{} is not there yet; a start makes it", dir.display());
            lines.push(Line::good(CHECK, found));
            return lines;
        }
        Err(error) => {
            let found = format!("{}: {error}", dir.display());
            lines.push(Line::bad(CHECK, found, "let the service's user read it"));
            return lines;
        }
    };
    for file in &files {
        let name = file.display();
        lines.push(
            match bench.dry_run(file, &config.data.dir, &mut |_, _| {}) {
                Ok(draft) => {
                    let hooks = draft.served.iter().map(|served| served.hook.as_str());
                    let hooks = hooks.collect::<Vec<_>>().join(", ");
                    Line::good(CHECK, format!("{name}: would serve {hooks}"))
                }
                Err(rejection) => Line::bad(
                    CHECK,
                    format!("{name}: {rejection}"),
                    "stent policy check tells more; until it is mended the last good one serves",
                ),
            },
        );
    }
    if files.is_empty() {
        let found = format!("{}: no files, the bundled policies serve", dir.display());
        lines.push(Line::good(CHECK, found));
    }
    lines
}

fn workbench(config: &Config) -> Result<Workbench, String> {
    let mut settings = config.engine.clone();
    let tokenizer = engine::tokenizer(&settings).or_else(|_| {
        // Its tokenizer counts bytes, which is enough to try a policy with.
        settings.kind = Kind::Scripted;
        engine::tokenizer(&settings)
    });
    let tokenizer = tokenizer.map_err(|error| error.to_string())?;
    Workbench::open(config.policies.clone(), tokenizer).map_err(|error| error.to_string())
}

fn wasm_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|end| end == "wasm") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Level;

    fn level(free: Option<u64>, writable: bool) -> Level {
        let place = Place {
            nearest: "/".into(),
            free,
            writable,
        };
        disk_line(Path::new("data"), &place).level
    }

    #[test]
    fn a_disk_is_judged_by_room_and_rights() {
        assert_eq!(level(Some(50 << 30), true), Level::Good);
        assert_eq!(level(Some(1 << 30), true), Level::Warn);
        assert_eq!(level(Some(1 << 20), true), Level::Bad);
        assert_eq!(level(Some(50 << 30), false), Level::Bad);
        assert_eq!(level(None, true), Level::Warn);
    }

    #[test]
    fn a_session_file_is_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(session::FILE);
        let line = sessions_file(&file, "not encrypted");
        assert!(line.found.contains("a start makes it"), "{line:?}");
        std::fs::write(&file, "x").unwrap();
        for (mode, level) in [(0o600, Level::Good), (0o640, Level::Warn)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(sessions_file(&file, "encrypted").level, level);
        }
    }

    #[test]
    fn a_folder_to_come_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        let place = look(&dir.path().join("not/yet"));
        assert_eq!(place.nearest, dir.path());
        assert!(place.writable && place.free.is_some());
    }
}
