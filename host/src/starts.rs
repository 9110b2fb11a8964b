//! When the gateway was started, and how it ended: what `pm2 status` counted as restarts.
//!
//! The list is a small JSON file in the data folder. Trouble with it costs the count, never a start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Older starts are forgotten, but for the one before this.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
const DAY: Duration = Duration::from_secs(86_400);
/// A gateway that restarts in a loop writes no file without end.
const MOST: usize = 1000;

/// The starts on one data folder, this one last.
#[derive(Debug)]
pub struct Starts {
    file: PathBuf,
    list: Vec<Start>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Start {
    /// Seconds since 1970.
    at: u64,
    #[serde(default)]
    pid: u32,
    /// It was ended by a signal and took everything apart. Without it, it crashed or was killed.
    #[serde(default)]
    ended: bool,
    /// It took the place of a running process, which is no restart.
    #[serde(default)]
    upgrade: bool,
}

/// Starts within the last 24 hours that followed another, and how many of those others had not
/// ended orderly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Restarts {
    pub day: usize,
    pub crashes: usize,
}

impl Starts {
    /// Adds this start to those in `data`.
    ///
    /// # Errors
    /// When the file cannot be written; the list is kept in memory all the same.
    ///
    /// `replaces`: the running process whose place it takes.
    pub fn record(data: &Path, replaces: Option<u32>) -> (Self, io::Result<()>) {
        let file = data.join("starts.json");
        let mut list = read(&file);
        let now = now();
        if let Some(last) = list.last_mut().filter(|last| replaces == Some(last.pid)) {
            last.ended = true;
        }
        let last = list.len().saturating_sub(1);
        let keep = |at: usize, start: &Start| {
            at == last || (last - at < MOST && now.saturating_sub(start.at) < KEPT.as_secs())
        };
        list = list
            .into_iter()
            .enumerate()
            .filter(|(at, start)| keep(*at, start))
            .map(|(_, start)| start)
            .collect();
        list.push(Start {
            at: now,
            pid: std::process::id(),
            ended: false,
            upgrade: replaces.is_some(),
        });
        let starts = Self { file, list };
        let written = starts.write(&starts.list);
        (starts, written)
    }

    /// This start ends as it should.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn end(&self) -> io::Result<()> {
        // A process that took this one's place has written since.
        let mut list = read(&self.file);
        let own = self.list.last().map(|own| (own.pid, own.at));
        let found = list.iter_mut().find(|s| own == Some((s.pid, s.at)));
        match found {
            Some(start) => start.ended = true,
            None => list.clone_from(&self.list),
        }
        self.write(&list)
    }

    /// As things stand now.
    pub fn restarts(&self) -> Restarts {
        let since = now().saturating_sub(DAY.as_secs());
        let pairs = self.list.iter().zip(self.list.iter().skip(1));
        let today: Vec<_> = pairs
            .filter(|(_, start)| start.at > since && !start.upgrade)
            .collect();
        Restarts {
            day: today.len(),
            crashes: today.iter().filter(|(before, _)| !before.ended).count(),
        }
    }

    /// Whole or not at all: the file is replaced.
    fn write(&self, list: &[Start]) -> io::Result<()> {
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        let draft = self.file.with_extension("json.tmp");
        fs::write(&draft, serde_json::to_vec(list)?)?;
        fs::rename(&draft, &self.file)
    }
}

fn read(file: &Path) -> Vec<Start> {
    let known = fs::read(file).unwrap_or_default();
    serde_json::from_slice(&known).unwrap_or_default()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &[(u64, bool)]) -> Starts {
        let start = |&(ago, ended)| Start {
            at: now() - ago,
            pid: 0,
            ended,
            upgrade: false,
        };
        Starts {
            file: PathBuf::new(),
            list: list.iter().map(start).collect(),
        }
    }

    #[test]
    fn a_restart_follows_a_start_within_the_day() {
        assert_eq!(of(&[(5, false)]).restarts(), Restarts::default());
        let starts = of(&[(200_000, true), (100_000, true), (50, false), (5, false)]);
        assert_eq!(starts.restarts(), Restarts { day: 2, crashes: 1 });
    }

    #[test]
    fn the_folder_remembers_how_each_ended() {
        let data = tempfile::tempdir().unwrap();
        let (first, written) = Starts::record(data.path(), None);
        written.unwrap();
        assert_eq!(first.restarts(), Restarts::default());
        first.end().unwrap();
        let (second, _) = Starts::record(data.path(), None);
        assert_eq!(second.restarts(), Restarts { day: 1, crashes: 0 });
        drop(second);
        let (third, _) = Starts::record(data.path(), None);
        assert_eq!(third.restarts(), Restarts { day: 2, crashes: 1 });
        let (next, _) = Starts::record(data.path(), Some(std::process::id()));
        third.end().unwrap();
        assert_eq!(next.restarts(), Restarts { day: 2, crashes: 1 });
        fs::write(data.path().join("starts.json"), "no JSON").unwrap();
        let (fourth, written) = Starts::record(data.path(), None);
        written.unwrap();
        assert_eq!(fourth.restarts(), Restarts::default());
    }
}
