//! Compilation in a child process with limits on memory, processor and wall-clock time: an input
//! can be made to exhaust any compiler, and what a big one leaves behind stays in the child.
//!
//! Compiled code is handed over through a directory of mode 0700, named by the digest of its
//! source and by everything that compiled code depends on. Nothing else is ever put there, and
//! compiled code is never taken from an operator.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::inspect::inspect;
use super::runtime::{compatibility, compiler};
use super::settings::Limits;
use super::stage::{Rejection, Stage};
use super::types::Hook;

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

/// What the child reports on its standard output.
#[derive(Serialize, Deserialize)]
enum Report {
    Compiled(Vec<Hook>),
    Rejected(Rejection),
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
            None => std::env::current_exe()?,
        };
        Ok(Self {
            dir,
            program,
            compatibility: compatibility(engine),
        })
    }

    /// The component of `source`, from earlier work where there is some.
    pub(super) fn compile(
        &self,
        engine: &Engine,
        source: &Path,
        sha256: &str,
        limits: &Limits,
    ) -> Result<Compiled, Rejection> {
        if let Some(known) = self.known(engine, sha256) {
            return Ok(known);
        }
        let output = self.output(sha256);
        let report = self.child(source, &output, limits)?;
        self.remember(sha256, &report)?;
        match report {
            Report::Rejected(rejection) => Err(rejection),
            Report::Compiled(hooks) => Ok(Compiled {
                component: self.load(engine, &output)?,
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

    fn child(&self, source: &Path, output: &Path, limits: &Limits) -> Result<Report, Rejection> {
        let broken = |e: io::Error| {
            Stage::Compile.reject(format!(
                "the compiler {} cannot run: {e}",
                self.program.display()
            ))
        };
        let mut child = Command::new(&self.program)
            .arg("__compile")
            .args([source, output])
            .arg(&self.compatibility)
            .arg(limits.compile_memory.to_string())
            .arg(limits.compile_cpu.as_secs().max(1).to_string())
            // Each thread of the compiler reserves address space of its own.
            .env("RAYON_NUM_THREADS", "2")
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(broken)?;
        let status = wait(&mut child, limits.compile_wall).map_err(broken)?;
        let Some(status) = status else {
            let limit = limits.compile_wall;
            return Err(Stage::Compile.reject(format!(
                "compiling took longer than policies.limits.compile_wall = {limit:?} allows"
            )));
        };
        let (mut said, mut complaint) = (Vec::new(), String::new());
        if let Some(mut out) = child.stdout.take() {
            out.read_to_end(&mut said).map_err(broken)?;
        }
        if let Some(mut err) = child.stderr.take() {
            // Only evidence for the sentence below; it may be anything.
            let _ = err.read_to_string(&mut complaint);
        }
        match serde_json::from_slice(&said) {
            Ok(report) if status.success() => Ok(report),
            _ => Err(Stage::Compile.reject(death(status, &complaint, limits))),
        }
    }
}

/// The exit status, or `None` after killing what ran too long.
fn wait(child: &mut std::process::Child, wall: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > wall {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
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
                .rfind(|line| !line.trim().is_empty())
                .unwrap_or("no word");
            format!("the compiler failed ({status}): {last}")
        }
    }
}

/// `stent __compile SOURCE OUTPUT COMPATIBILITY MEMORY CPU`: the child's whole life. Limits come
/// first, before a byte of the source is read.
pub fn compile_child_main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [source, output, compatibility, memory, cpu] = arguments.as_slice() else {
        eprintln!("__compile is for the gateway's own use and needs 5 arguments");
        return std::process::ExitCode::from(2);
    };
    match child(
        Path::new(source),
        Path::new(output),
        compatibility,
        memory,
        cpu,
    ) {
        Ok(report) => {
            println!("{report}");
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn child(
    source: &Path,
    output: &Path,
    expected: &str,
    memory: &str,
    cpu: &str,
) -> Result<String, Box<dyn std::error::Error>> {
    limit(Resource::As, memory.parse()?)?;
    limit(Resource::Cpu, cpu.parse()?)?;
    limit(Resource::Core, 0)?;
    let engine = compiler()?;
    let compatibility = compatibility(&engine);
    if compatibility != expected {
        return Err(format!("this compiler makes {compatibility}, {expected} is wanted").into());
    }
    let report = match precompile(&engine, &fs::read(source)?, output) {
        Ok(hooks) => Report::Compiled(hooks),
        Err(rejection) => Report::Rejected(rejection),
    };
    Ok(serde_json::to_string(&report)?)
}

fn limit(resource: Resource, value: u64) -> io::Result<()> {
    Ok(setrlimit(
        resource,
        bounds(resource, value, getrlimit(resource).maximum),
    )?)
}

/// Only a privileged process may go above the hard limit that it was started with. That on
/// processor time lies a second higher than asked for: reached, it says no more than SIGKILL.
fn bounds(resource: Resource, value: u64, hard: Option<u64>) -> Rlimit {
    let within = |value: u64| Some(hard.map_or(value, |hard| value.min(hard)));
    let grace = u64::from(resource == Resource::Cpu);
    Rlimit {
        current: within(value),
        maximum: within(value.saturating_add(grace)),
    }
}

/// Inspects and compiles; the output appears whole or not at all.
fn precompile(engine: &Engine, source: &[u8], output: &Path) -> Result<Vec<Hook>, Rejection> {
    let inspected = inspect(source)?;
    let code = engine
        .precompile_component(&inspected.component)
        .map_err(|e| Stage::Compile.reject(format!("cannot be compiled: {e:#}")))
        .map_err(|r| r.about(inspected.hooks.first().copied()))?;
    let half = output.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&half, code)
        .and_then(|()| fs::rename(&half, output))
        .map_err(|e| Stage::Compile.reject(format!("its code could not be written: {e}")))?;
    Ok(inspected.hooks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_stay_below_those_of_whoever_started_the_gateway() {
        let of = |resource, value, hard| {
            let Rlimit { current, maximum } = bounds(resource, value, hard);
            (current, maximum)
        };
        assert_eq!(of(Resource::As, 9, None), (Some(9), Some(9)));
        assert_eq!(of(Resource::As, 9, Some(5)), (Some(5), Some(5)));
        assert_eq!(of(Resource::Cpu, 9, None), (Some(9), Some(10)));
        assert_eq!(of(Resource::Cpu, 9, Some(9)), (Some(9), Some(9)));
        assert_eq!(of(Resource::Core, 0, Some(0)), (Some(0), Some(0)));
    }

    #[test]
    fn the_child_may_set_its_limits_again_and_only_lower_them() -> io::Result<()> {
        // As a process without privileges would be told: what is set stays settable.
        limit(Resource::Core, 0)?;
        limit(Resource::Core, 0)?;
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        limit(Resource::Core, 7)?;
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        Ok(())
    }
}
