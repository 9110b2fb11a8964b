//! `test`: golden cases, once or on every change.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, SystemTime};

use clap::Args;
use notify::{RecursiveMode, Watcher};

use super::setup::{Conditions, cases_beside, show_guest_logs};
use super::table::{Colour, Paint};
use super::{Error, diff};
use crate::policy::{CaseOutcome, CaseReport, Workbench};

/// `stent policy test`.
#[derive(Args, Clone, Debug)]
pub struct Test {
    /// A core module or a component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// The cases [default: FILE.cases.json beside FILE.wasm]
    #[arg(long, value_name = "FILE.json")]
    cases: Option<PathBuf>,
    /// Go on: test again whenever one of the two files changes
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    conditions: Conditions,
}

/// A build writes a file in several steps.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the files are looked at where no event comes.
const LOOK: Duration = Duration::from_secs(2);

impl Test {
    pub fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        show_guest_logs();
        let (_, bench) = self.conditions.open()?;
        let cases = self.cases.clone();
        let cases = cases.unwrap_or_else(|| cases_beside(&self.file));
        if !self.watch {
            return self.once(&bench, &cases, out);
        }
        let changes = Changes::of([&self.file, &cases])?;
        loop {
            let stamps = changes.stamps();
            if let Err(error) = self.once(&bench, &cases, out) {
                writeln!(out, "{error}")?;
            }
            writeln!(out, "waiting for a change\n")?;
            out.flush()?;
            changes.wait(stamps);
        }
    }

    fn once(&self, bench: &Workbench, cases: &Path, out: &mut dyn Write) -> Result<(), Error> {
        let rejected = || Error::rejected(&self.file);
        let draft = bench
            .examine(&self.file, &mut |_, _| {})
            .map_err(rejected())?;
        if !cases.exists() {
            return Err(Error::Failed(format!(
                "{} is not there: expected golden cases, or another file named with --cases",
                cases.display()
            )));
        }
        let reports = bench.cases(&draft, cases).map_err(rejected())?;
        let paint = Paint::of_stdout();
        for report in &reports {
            show(report, paint, out)?;
        }
        let count = |wanted: fn(&CaseOutcome) -> bool| {
            let outcomes = reports.iter().map(|report| &report.outcome);
            outcomes.filter(|outcome| wanted(outcome)).count()
        };
        let same = count(|it| *it == CaseOutcome::Same);
        let skipped = count(|it| *it == CaseOutcome::NotServed);
        let failed = reports.len() - same - skipped;
        writeln!(out, "{same} ok, {failed} failed, {skipped} skipped")?;
        match (same, failed) {
            (0, 0) => Err(Error::Failed(format!(
                "{} has no case for a hook of {}",
                cases.display(),
                self.file.display()
            ))),
            (_, 0) => Ok(()),
            _ => Err(Error::Failed(format!(
                "{failed} of {} cases of {} failed",
                reports.len(),
                cases.display()
            ))),
        }
    }
}

fn show(report: &CaseReport, paint: Paint, out: &mut dyn Write) -> std::io::Result<()> {
    let (hook, name) = (report.hook, &report.name);
    let mut line = |colour, word: &str, note: &str| {
        let word = paint.paint(colour, &format!("{word:7}"));
        writeln!(out, "{word}  {:6}  {name}{note}", hook.as_str())
    };
    match &report.outcome {
        CaseOutcome::Same => line(Colour::Green, "ok", ""),
        CaseOutcome::NotServed => line(Colour::Yellow, "skipped", ": the hook is not served"),
        CaseOutcome::Failed(fault) => {
            line(Colour::Red, "FAILED", "")?;
            writeln!(out, "         {fault}")
        }
        CaseOutcome::Different { expected, got } => {
            line(Colour::Red, "FAILED", "")?;
            for line in diff::lines(expected, got) {
                writeln!(out, "         {line}")?;
            }
            Ok(())
        }
    }
}

type Stamps = Vec<Option<(SystemTime, u64)>>;

/// Tells when one of some files has changed.
struct Changes {
    files: Vec<PathBuf>,
    events: Receiver<()>,
    /// Where the folders cannot be watched, the files are looked at every [`LOOK`].
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Changes {
    fn of(files: [&PathBuf; 2]) -> Result<Self, Error> {
        let (events, inbox) = channel();
        // Folders, because builds replace files.
        let watcher = notify::recommended_watcher(move |_| {
            // Nobody listens any more when the command ends.
            let _ = events.send(());
        });
        let mut watcher = watcher.ok();
        for file in files {
            let folder = match file.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            if let Some(watcher) = &mut watcher {
                // A folder that is not there yet is looked for like the files in it.
                let _ = watcher.watch(folder, RecursiveMode::NonRecursive);
            }
        }
        let files = files.map(Clone::clone).to_vec();
        Ok(Self {
            files,
            events: inbox,
            _watcher: watcher,
        })
    }

    fn stamps(&self) -> Stamps {
        let stamp = |file: &PathBuf| {
            let meta = std::fs::metadata(file).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        };
        self.files.iter().map(stamp).collect()
    }

    /// Returns once the files differ from `before` and have settled.
    fn wait(&self, before: Stamps) {
        loop {
            let pause = match self.stamps() == before {
                true => LOOK,
                false => SETTLE,
            };
            let seen = self.stamps();
            match self.events.recv_timeout(pause) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) if seen != before && seen == self.stamps() => return,
                Err(RecvTimeoutError::Timeout) => {}
                // Without a watcher there are no events, only time.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(pause.min(SETTLE * 5)),
            }
            if pause == SETTLE && seen != before && seen == self.stamps() {
                return;
            }
        }
    }
}
