//! Which CPU code runs: ggml's kernels are built once for every family of processors, each in a file
//! of its own, and one of them is loaded.
//!
//! The files stand in the order of measured speed. A processor's flags say which may run; a probe
//! in a child process says which do run, because there are virtual machines whose flags promise
//! what then crashes. That is why no file with AMX code is ever tried. What was found is remembered
//! for the processor, so that only the first start probes.

mod probe;
mod variants;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use probe::child_main as probe_child_main;
use variants::VARIANTS;
pub use variants::{Processor, Variant, candidates};

/// What the hidden subcommand is given instead of a file for Stent's own kernels.
const OWN: &str = "own";

/// The hidden subcommand that runs [`probe_child_main`].
pub const PROBE_COMMAND: &str = "__probe";

/// A probe multiplies two small matrices; one that takes longer hangs.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Why no CPU code could be loaded.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    #[error("no CPU code found: none of {tried:?} holds a libggml-cpu-*.so")]
    Missing { tried: Vec<PathBuf> },
    #[error("no CPU code works here: tried {tried:?}, the processor is {model:?}")]
    NoneWorks {
        tried: Vec<&'static str>,
        model: String,
    },
}

/// What earlier probes found, kept in the data folder.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    /// Processor and build that this is about.
    key: String,
    works: Option<String>,
}

/// Loads the best CPU code that works and returns its name. Call it once, before the backend.
pub fn load_best(data: &Path) -> Result<&'static str, CpuError> {
    let folder = find_folder()?;
    let processor = Processor::here();
    let candidates = candidates(&processor);
    let there: Vec<_> = candidates
        .into_iter()
        .map(|v| (v.name, folder.join(file_name(v.name))))
        .filter(|(_, f)| f.is_file())
        .collect();
    let memory = data.join("cpu-code.json");
    let key = memory_key(&processor, &there);
    let remembered = recall(&memory, &key);
    let tried = || there.iter().map(|(name, _)| *name).collect();
    for (name, file) in &there {
        let known = remembered.as_deref() == Some(*name);
        if remembered.is_some() && !known {
            continue;
        }
        if (known || probe(file)) && probe::load(file) {
            if !known {
                remember(
                    &memory,
                    &Memory {
                        key,
                        works: Some((*name).into()),
                    },
                );
            }
            return Ok(name);
        }
    }
    Err(CpuError::NoneWorks {
        tried: tried(),
        model: processor.model,
    })
}

/// Whether the processor has what Stent's own matrix kernels (engine/kernels) need.
pub fn own_possible() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return super::kernels::possible();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// Whether the own kernels work here: a probe says so, of now or of an earlier start of this version.
pub fn own_works(data: &Path) -> bool {
    let memory = data.join("own-kernels.json");
    let version = env!("STENT_VERSION");
    let key = format!("{} | {version}", memory_key(&Processor::here(), &[]));
    if recall(&memory, &key).is_some() {
        return true;
    }
    let works = own_possible() && probe(Path::new(OWN));
    if works {
        let works = Some(OWN.into());
        remember(&memory, &Memory { key, works });
    }
    works
}

/// Runs `load` so that a model which it loads uses the own kernels, where [`own_works`] said that they
/// do; `lock`: their weights are locked in RAM. Also says whether a lock was refused.
pub fn with_own<T>(lock: bool, load: impl FnOnce() -> T) -> (T, bool) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return super::kernels::offered(lock, load);
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        let _ = lock;
        (load(), false)
    }
}

/// What a start would load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub works: &'static str,
    /// Faster ones that the flags promise and that failed when they were tried.
    pub skipped: Vec<&'static str>,
    pub processor: String,
}

/// Finds what [`load_best`] would load, without loading or remembering it.
///
/// # Errors
/// As [`load_best`].
pub fn find(data: &Path) -> Result<Found, CpuError> {
    let folder = find_folder()?;
    let processor = Processor::here();
    let there: Vec<_> = candidates(&processor)
        .into_iter()
        .map(|v| (v.name, folder.join(file_name(v.name))))
        .filter(|(_, f)| f.is_file())
        .collect();
    let remembered = recall(&data.join("cpu-code.json"), &memory_key(&processor, &there));
    let mut skipped = Vec::new();
    for (name, file) in &there {
        let works = match &remembered {
            Some(known) => known == name,
            None => probe(file),
        };
        if works {
            return Ok(Found {
                works: name,
                skipped,
                processor: processor.model,
            });
        }
        skipped.push(*name);
    }
    Err(CpuError::NoneWorks {
        tried: skipped,
        model: processor.model,
    })
}

fn file_name(variant: &str) -> String {
    format!("libggml-cpu-{variant}.so")
}

/// The folder with the kernels: beside the binary, or where a package puts them.
fn find_folder() -> Result<PathBuf, CpuError> {
    let exe = std::env::current_exe().unwrap_or_default();
    let beside = exe.parent().unwrap_or(Path::new("."));
    let places = [
        beside.join("lib"),
        beside.join("../lib"),
        beside.join("../lib/stent"),
    ];
    let holds = |folder: &PathBuf| {
        VARIANTS
            .iter()
            .any(|v| folder.join(file_name(v.name)).is_file())
    };
    match places.iter().find(|folder| holds(folder)) {
        Some(folder) => Ok(folder.clone()),
        None => Err(CpuError::Missing {
            tried: places.into(),
        }),
    }
}

/// Loads another file of ggml's from the kernels' folder; false when that cannot be done.
pub fn load_beside(name: &str) -> bool {
    let file = find_folder().map(|folder| folder.join(name));
    file.is_ok_and(|file| file.is_file() && probe::load(&file))
}

/// Tries the file in a child process; its death rules the file out.
fn probe(file: &Path) -> bool {
    let Some(stent) = prober() else {
        tracing::warn!("no `stent` binary to probe CPU code with: it is used untried");
        return true;
    };
    let mut command = Command::new(stent);
    command
        .arg(PROBE_COMMAND)
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let works = match command.spawn() {
        Ok(mut child) => wait(&mut child),
        Err(error) => {
            tracing::warn!(%error, "a probe of CPU code could not be started: it is used untried");
            return true;
        }
    };
    if !works {
        tracing::warn!(file = %file.display(), "this CPU code does not work here, the next one is tried");
    }
    works
}

/// This binary, or for a test the one beside its folder.
fn prober() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    if exe.file_stem()? == "stent" {
        return Some(exe);
    }
    let beside = exe.parent()?.parent()?.join("stent");
    beside.is_file().then_some(beside)
}

fn wait(child: &mut std::process::Child) -> bool {
    let since = std::time::Instant::now();
    while since.elapsed() < PROBE_LIMIT {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Err(_) => return false,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// Another processor, another build or other files: probed anew.
fn memory_key(processor: &Processor, files: &[(&str, PathBuf)]) -> String {
    let size = |file: &PathBuf| std::fs::metadata(file).map_or(0, |about| about.len());
    let files: Vec<_> = files
        .iter()
        .map(|(name, file)| format!("{name}:{}", size(file)))
        .collect();
    let amx = processor.flags.iter().any(|flag| flag.starts_with("amx"));
    format!("{} | amx {amx} | {}", processor.model, files.join(" "))
}

fn recall(path: &Path, key: &str) -> Option<String> {
    let memory: Memory = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (memory.key == key).then_some(memory.works).flatten()
}

/// Forgetting costs a probe at the next start, no more: a failure is not worth a word.
fn remember(path: &Path, memory: &Memory) {
    if let Some(folder) = path.parent() {
        let _ = std::fs::create_dir_all(folder);
    }
    if let Ok(text) = serde_json::to_vec_pretty(memory) {
        let _ = std::fs::write(path, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_holds_for_its_processor_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data/cpu-code.json");
        remember(
            &path,
            &Memory {
                key: "a".into(),
                works: Some("zen4".into()),
            },
        );
        assert_eq!(recall(&path, "a").as_deref(), Some("zen4"));
        assert_eq!(recall(&path, "b"), None);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(recall(&path, "a"), None);
    }
}
