//! Compilation in a child process with limits on memory, processor and wall-clock time: an input
//! can be made to exhaust any compiler, and what a big one leaves behind stays in the child.
//!
//! Compiled code is handed over through a directory of mode 0700, named by the digest of its
//! source and by everything that compiled code depends on. Nothing else is ever put there, and
//! compiled code is never taken from an operator.

mod child;

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::runtime::compatibility;
use super::settings::Limits;
use super::stage::{Rejection, Stage};
use super::types::Hook;

pub use child::compile_child_main;
use child::precompile;

/// Compiles, and remembers what it compiled.
pub(super) struct Compiler {
    dir: PathBuf,
    program: PathBuf,
    compatibility: String,
}

/// A component ready to be instantiated, and the hooks that it exports.
pub(super) struct Compiled {
    pub component: Component,
    pub hooks: Vec<Hook>,
}

/// What there is of a source: code from earlier work, or a child that makes it.
pub(super) enum Begun {
    Compiled(Compiled),
    Running(Job),
}

/// A child at work on one source. It ends with this.
pub(super) struct Job {
    child: Child,
    since: Instant,
    sha256: String,
}

/// How often somebody who waits for a child looks at it.
const LOOK: Duration = Duration::from_millis(2);

/// What the child reports on its standard output.
#[derive(Serialize, Deserialize)]
enum Report {
    Compiled(Vec<Hook>),
    Rejected(Rejection),
}

/// This very program, though its file was replaced: another one might make other code. Each process
/// finds itself under this name on Linux.
fn running() -> io::Result<PathBuf> {
    let own = Path::new("/proc/self/exe");
    match own.exists() {
        true => Ok(own.to_owned()),
        false => std::env::current_exe(),
    }
}

impl Compiler {
    pub(super) fn new(dir: PathBuf, program: Option<PathBuf>, engine: &Engine) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        let meta = fs::metadata(&dir)?;
        if meta.mode() & 0o077 != 0 {
            // Whoever can write here decides what code this process runs.
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        }
        let program = match program {
            Some(program) => program,
            None => running()?,
        };
        Ok(Self {
            dir,
            program,
            compatibility: compatibility(engine),
        })
    }

    /// The component of `source`, from earlier work where there is some. Blocks.
    pub(super) fn compile(
        &self,
        engine: &Engine,
        source: &Path,
        sha256: &str,
        limits: &Limits,
    ) -> Result<Compiled, Rejection> {
        let mut job = match self.begin(engine, source, sha256, limits)? {
            Begun::Compiled(compiled) => return Ok(compiled),
            Begun::Running(job) => job,
        };
        loop {
            if let Some(compiled) = self.finish(engine, &mut job, limits) {
                return compiled;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The same without waiting for the child: ask [`Compiler::finish`] until it is done.
    pub(super) fn begin(
        &self,
        engine: &Engine,
        source: &Path,
        sha256: &str,
        limits: &Limits,
    ) -> Result<Begun, Rejection> {
        if let Some(known) = self.known(engine, sha256) {
            return Ok(Begun::Compiled(known));
        }
        let child = self.spawn(source, &self.output(sha256), limits);
        Ok(Begun::Running(Job {
            child: child.map_err(|e| self.broken(&e))?,
            since: Instant::now(),
            sha256: sha256.to_owned(),
        }))
    }

    /// What the child made; `None` while it works and has time left.
    pub(super) fn finish(
        &self,
        engine: &Engine,
        job: &mut Job,
        limits: &Limits,
    ) -> Option<Result<Compiled, Rejection>> {
        let status = match job.child.try_wait() {
            Ok(Some(status)) => status,
            Ok(None) if job.since.elapsed() <= limits.compile_wall => return None,
            Ok(None) => {
                let limit = limits.compile_wall;
                return Some(Err(Stage::Compile.reject(format!(
                    "compiling took longer than policies.limits.compile_wall = {limit:?} allows"
                ))));
            }
            Err(error) => return Some(Err(self.broken(&error))),
        };
        let report = self.report_of(job, status, limits);
        Some(report.and_then(|report| self.taken(engine, job, report)))
    }

    fn taken(&self, engine: &Engine, job: &Job, report: Report) -> Result<Compiled, Rejection> {
        self.remember(&job.sha256, &report)?;
        match report {
            Report::Rejected(rejection) => Err(rejection),
            Report::Compiled(hooks) => Ok(Compiled {
                component: self.load(engine, &self.output(&job.sha256))?,
                hooks,
            }),
        }
    }

    /// For bundled policies only, whose source is the gateway's own.
    pub(super) fn compile_trusted(
        &self,
        engine: &Engine,
        source: &[u8],
        sha256: &str,
    ) -> Result<Compiled, Rejection> {
        if let Some(known) = self.known(engine, sha256) {
            return Ok(known);
        }
        let output = self.output(sha256);
        let hooks = precompile(engine, source, &output)?;
        self.remember(sha256, &Report::Compiled(hooks.clone()))?;
        Ok(Compiled {
            component: self.load(engine, &output)?,
            hooks,
        })
    }

    fn known(&self, engine: &Engine, sha256: &str) -> Option<Compiled> {
        let report = fs::read(self.report(sha256)).ok()?;
        let Ok(Report::Compiled(hooks)) = serde_json::from_slice(&report) else {
            return None;
        };
        let component = self.load(engine, &self.output(sha256)).ok()?;
        Some(Compiled { component, hooks })
    }

    fn remember(&self, sha256: &str, report: &Report) -> Result<(), Rejection> {
        if let Report::Rejected(_) = report {
            // Limits may be raised; a rejected file is tried again when it is seen again.
            return Ok(());
        }
        let write = serde_json::to_vec(report)
            .map_err(io::Error::other)
            .and_then(|json| fs::write(self.report(sha256), json));
        write.map_err(|e| Stage::Compile.reject(format!("its result could not be kept: {e}")))
    }

    /// Forgets what was compiled from sources that nobody may want again.
    pub(super) fn sweep(&self, wanted: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let sha256 = name.to_string_lossy();
            let sha256 = sha256.split_once('-').map_or("", |(sha256, _)| sha256);
            if !wanted(sha256) {
                // A file too many costs only room on disk; code in use stays mapped.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn output(&self, sha256: &str) -> PathBuf {
        self.dir
            .join(format!("{sha256}-{}.cwasm", self.compatibility))
    }

    fn report(&self, sha256: &str) -> PathBuf {
        self.dir
            .join(format!("{sha256}-{}.json", self.compatibility))
    }

    #[expect(
        unsafe_code,
        reason = "wasmtime offers no safe way to load what another process compiled"
    )]
    fn load(&self, engine: &Engine, file: &Path) -> Result<Component, Rejection> {
        // SAFETY: the file was written by `precompile`, by this program or its child, into a
        // directory that only this user can write; its name holds the source's digest and the
        // compatibility of compiler and engine, and wasmtime checks its own header again.
        let loaded = unsafe { Component::deserialize_file(engine, file) };
        loaded.map_err(|e| {
            Stage::Compile.reject(format!("its compiled code cannot be loaded: {e:#}"))
        })
    }

    fn broken(&self, error: &io::Error) -> Rejection {
        let program = self.program.display();
        Stage::Compile.reject(format!("the compiler {program} cannot run: {error}"))
    }

    fn spawn(&self, source: &Path, output: &Path, limits: &Limits) -> io::Result<Child> {
        Command::new(&self.program)
            .arg("__compile")
            .args([source, output])
            .arg(&self.compatibility)
            .arg(limits.compile_memory.to_string())
            .arg(limits.compile_cpu.as_secs().max(1).to_string())
            // Each thread of the compiler reserves address space of its own.
            .env("RAYON_NUM_THREADS", "2")
            .env("MALLOC_ARENA_MAX", "2")
            // The allocator would take a GiB of it at once.
            .env("MIMALLOC_ARENA_RESERVE", "0")
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }

    /// What a child that has ended reported, or how it died.
    fn report_of(
        &self,
        job: &mut Job,
        status: ExitStatus,
        limits: &Limits,
    ) -> Result<Report, Rejection> {
        let (mut said, mut complaint) = (Vec::new(), String::new());
        if let Some(mut out) = job.child.stdout.take() {
            out.read_to_end(&mut said).map_err(|e| self.broken(&e))?;
        }
        if let Some(mut err) = job.child.stderr.take() {
            // Only evidence for the sentence below; it may be anything.
            let _ = err.read_to_string(&mut complaint);
        }
        match serde_json::from_slice(&said) {
            Ok(report) if status.success() => Ok(report),
            _ => Err(Stage::Compile.reject(death(status, &complaint, limits))),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // A child that has ended and was waited for is not killed again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says which limit ended the child, as far as its death tells.
fn death(status: ExitStatus, complaint: &str, limits: &Limits) -> String {
    const XCPU: i32 = 24;
    let memory = limits.compile_memory;
    let out_of_memory = [
        "memory allocation of",
        "Cannot allocate memory",
        "out of memory",
        // What a thread is told for which there is no stack.
        "Resource temporarily unavailable",
    ];
    match status.signal() {
        Some(XCPU) => format!(
            "compiling took more processor time than policies.limits.compile_cpu = {:?} allows",
            limits.compile_cpu
        ),
        _ if out_of_memory.iter().any(|sign| complaint.contains(sign)) => format!(
            "compiling took more memory than policies.limits.compile_memory = {memory} bytes allows"
        ),
        Some(signal) => format!("the compiler was ended by signal {signal}"),
        None => {
            let last = complaint
                .lines()
                .rfind(|line| !line.trim().is_empty() && !line.starts_with("note: "))
                .unwrap_or("no word");
            format!("the compiler failed ({status}): {last}")
        }
    }
}
