//! The child's side: limits first, then the whole work on one source.

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wasmtime::Engine;

use super::Report;
use crate::policy::inspect::inspect;
use crate::policy::runtime::{Counts, compatibility, compiler};
use crate::policy::stage::{Rejection, Stage};
use crate::policy::types::Hook;

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
    // Which of the two engines asks is written in what it expects.
    let serving = compiler(Counts::Nothing)?;
    let engine = match compatibility(&serving) == expected {
        true => serving,
        false => compiler(Counts::Fuel)?,
    };
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
pub(super) fn precompile(
    engine: &Engine,
    source: &[u8],
    output: &Path,
) -> Result<Vec<Hook>, Rejection> {
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
