//! Processor and limits: what the kernel tells, and what is thought of it.

use std::path::Path;

use super::report::Line;
use crate::engine::threads::Machine;
use crate::engine::{self, Kind, cpu, memory};

/// What this machine is.
#[derive(Clone, Debug)]
pub struct Facts {
    pub machine: Machine,
    /// The kernels that would run, or why none would.
    pub code: Result<cpu::Found, String>,
    pub ram: Option<u64>,
    pub available: Option<u64>,
    /// The tightest memory limit of the process's cgroups.
    pub cgroup: Option<u64>,
    /// RLIMIT_MEMLOCK; `None`: unlimited.
    pub memlock: Option<u64>,
    /// RLIMIT_NOFILE; `None`: unlimited.
    pub files: Option<u64>,
    /// /sys/kernel/mm/transparent_hugepage/enabled
    pub huge_pages: Option<String>,
}

impl Facts {
    /// Asks the kernel. `data` is where an earlier start remembered which CPU code works.
    pub fn here(data: &Path) -> Self {
        let thp = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Self {
            machine: Machine::here(),
            code: cpu::find(data).map_err(|error| error.to_string()),
            ram: memory::total(),
            available: memory::available(),
            cgroup: cgroup_limit(Path::new("/sys/fs/cgroup"), Path::new("/proc/self/cgroup")),
            memlock: memory::limit(),
            files: files.current,
            huge_pages: thp.ok(),
        }
    }
}

/// The smallest `memory.max` on the way from the process's cgroup to the root (cgroup v2).
fn cgroup_limit(root: &Path, own: &Path) -> Option<u64> {
    let own = std::fs::read_to_string(own).ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let below = root.join(path);
    let folders = below.ancestors().take_while(|dir| dir.starts_with(root));
    folders
        .filter_map(|dir| std::fs::read_to_string(dir.join("memory.max")).ok())
        .filter_map(|text| text.trim().parse().ok())
        .min()
}

pub fn cores(facts: &Facts, settings: &engine::Settings) -> Vec<Line> {
    const CHECK: &str = "cpu.cores";
    if settings.kind != Kind::Llama {
        return vec![Line::good(
            CHECK,
            format!("{} for this process", facts.machine.affinity),
        )];
    }
    let asked = settings.threads.max(settings.threads_batch);
    let clamped = engine::threads::clamp("threads", asked, facts.machine);
    let found = format!(
        "{} for this process, {} threads compute",
        facts
            .machine
            .affinity
            .min(facts.machine.quota.unwrap_or(u32::MAX)),
        clamped.threads
    );
    match clamped.reason {
        None => vec![Line::good(CHECK, found)],
        Some(reason) => vec![Line::warn(
            CHECK,
            reason,
            format!(
                "give the process more CPUs (affinity, CPUQuota), or set engine.threads and \
                 engine.threads_batch to {} so that the file says what runs",
                clamped.threads
            ),
        )],
    }
}

pub fn code(facts: &Facts, settings: &engine::Settings) -> Line {
    const CHECK: &str = "cpu.code";
    if settings.kind != Kind::Llama {
        return Line::good(CHECK, "not needed: no model is computed here");
    }
    match &facts.code {
        Err(error) => Line::bad(
            CHECK,
            error,
            "put the libggml-cpu-*.so files of the build into lib/ beside the binary",
        ),
        Ok(found) if !found.skipped.is_empty() => Line::warn(
            CHECK,
            format!(
                "{}: {} should run by the processor's flags and crashed when tried",
                found.works,
                found.skipped.join(", ")
            ),
            "nothing, if the machine is virtual: its flags promise more than it has",
        ),
        Ok(found) if ["sandybridge", "sse42"].contains(&found.works) => Line::warn(
            CHECK,
            format!("{}: {} has no AVX2", found.works, found.processor),
            "expect a fraction of the documented speed; a processor with AVX2 or AVX-512 helps",
        ),
        Ok(found) => Line::good(CHECK, format!("{} on {}", found.works, found.processor)),
    }
}

pub fn huge_pages(facts: &Facts) -> Line {
    const CHECK: &str = "memory.thp";
    let Some(text) = &facts.huge_pages else {
        return Line::good(CHECK, "this kernel has no transparent huge pages");
    };
    let chosen = text.split(['[', ']']).nth(1).unwrap_or_default();
    match chosen {
        "always" => Line::good(CHECK, "transparent huge pages: always"),
        other => Line::warn(
            CHECK,
            format!("transparent huge pages: {other}; weights and KV lie in small pages"),
            "echo always > /sys/kernel/mm/transparent_hugepage/enabled, and measure (stent bench)",
        ),
    }
}

pub fn descriptors(facts: &Facts) -> Line {
    const CHECK: &str = "limits.files";
    /// A connection takes one, and a full backlog comes at once.
    const ENOUGH: u64 = 4096;
    match facts.files {
        Some(limit) if limit < ENOUGH => Line::warn(
            CHECK,
            format!("`ulimit -n` is {limit}: so many connections and files"),
            format!("raise it to {ENOUGH} or more (systemd: LimitNOFILE)"),
        ),
        Some(limit) => Line::good(CHECK, format!("`ulimit -n` is {limit}")),
        None => Line::good(CHECK, "`ulimit -n` is unlimited"),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::doctor::report::Level;

    /// The machine that the gateway is made for.
    pub fn facts() -> Facts {
        Facts {
            machine: Machine {
                affinity: 8,
                quota: None,
            },
            code: Ok(cpu::Found {
                works: "zen4",
                skipped: vec![],
                processor: "Some CPU".into(),
            }),
            ram: Some(26 << 30),
            available: Some(24 << 30),
            cgroup: None,
            memlock: None,
            files: Some(65536),
            huge_pages: Some("[always] madvise never".into()),
        }
    }

    #[test]
    fn the_machine_it_is_made_for_is_good() {
        let (facts, settings) = (facts(), engine::Settings::default());
        let mut lines = cores(&facts, &settings);
        lines.push(code(&facts, &settings));
        lines.push(huge_pages(&facts));
        lines.push(descriptors(&facts));
        for line in lines {
            assert_eq!(line.level, Level::Good, "{line:?}");
        }
    }

    #[test]
    fn what_slows_the_processor_is_told() {
        let settings = engine::Settings::default();
        let mut few = facts();
        few.machine.affinity = 2;
        let line = &cores(&few, &settings)[0];
        assert_eq!(line.level, Level::Warn);
        assert!(line.found.contains("8 asked for, 2 used"), "{line:?}");
        let mut old = facts();
        old.code = Ok(cpu::Found {
            works: "sse42",
            skipped: vec![],
            processor: "Old".into(),
        });
        assert_eq!(code(&old, &settings).level, Level::Warn);
        old.code = Err("no CPU code found".into());
        assert_eq!(code(&old, &settings).level, Level::Bad);
        old.huge_pages = Some("always madvise [never]".into());
        assert!(huge_pages(&old).found.contains("never"));
        old.files = Some(1024);
        assert_eq!(descriptors(&old).level, Level::Warn);
    }

    #[test]
    fn the_tightest_cgroup_counts() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = dir.path().join("system.slice/stent.service");
        std::fs::create_dir_all(&leaf).unwrap();
        let own = dir.path().join("own");
        std::fs::write(&own, "0::/system.slice/stent.service\n").unwrap();
        assert_eq!(cgroup_limit(dir.path(), &own), None);
        std::fs::write(leaf.join("memory.max"), "max\n").unwrap();
        std::fs::write(dir.path().join("system.slice/memory.max"), "21474836480\n").unwrap();
        assert_eq!(cgroup_limit(dir.path(), &own), Some(20 << 30));
    }
}
