//! Processor, memory and limits: what the kernel tells, and what is thought of it.

use std::path::Path;

use super::report::Line;
use super::running::Running;
use crate::config::Config;
use crate::engine::threads::Machine;
use crate::engine::{self, Header, Kind, cpu, memory};

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

/// What a gateway with this configuration may come to hold, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// The model file, mapped or read.
    pub model: u64,
    /// Copies of weights in a form that suits the CPU: at most as much again.
    pub copies: u64,
    pub kv: u64,
    pub parked: u64,
    pub sessions: u64,
    pub cache: u64,
    pub policies: u64,
}

/// A warm instance of a policy: its linear memory and what belongs to it.
const INSTANCE: u64 = 2 << 20;
/// Hooks that keep instances warm.
const HOOKS: u64 = 5;

impl Needs {
    pub fn of(config: &Config, header: Option<&Header>) -> Self {
        let engine = &config.engine;
        let local = engine.kind == Kind::Llama;
        let model = header.map_or(0, |h| h.file_bytes);
        let kv = header.and_then(|h| h.kv_bytes);
        Self {
            model,
            copies: if engine.mmap { model } else { 0 },
            kv: kv.unwrap_or(0).saturating_mul(u64::from(engine.cells())),
            parked: if local { engine.kv_park_bytes } else { 0 },
            sessions: config.sessions.max_bytes,
            cache: config.cache.max_bytes,
            policies: HOOKS * INSTANCE * config.policies.limits.warm as u64,
        }
    }

    fn total(&self) -> u64 {
        [
            self.model,
            self.copies,
            self.kv,
            self.parked,
            self.sessions,
            self.cache,
            self.policies,
        ]
        .iter()
        .fold(0, |sum: u64, part| sum.saturating_add(*part))
    }

    fn words(&self) -> String {
        format!(
            "{} at most: model {}, copies that suit the CPU up to {}, KV {}, parked KV {}, \
             sessions {}, cache {}, warm policies {}",
            size(self.total()),
            size(self.model),
            size(self.copies),
            size(self.kv),
            size(self.parked),
            size(self.sessions),
            size(self.cache),
            size(self.policies),
        )
    }
}

/// "11.3 GiB"
pub fn size(bytes: u64) -> String {
    match bytes {
        0x4000_0000.. => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
        0x10_0000.. => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
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

pub fn memory(facts: &Facts, needs: &Needs, serves: bool) -> Vec<Line> {
    const CHECK: &str = "memory.ram";
    let Some(ram) = facts.ram else {
        let todo = "compare by hand: the kernel does not tell how much RAM there is";
        return vec![Line::warn(CHECK, needs.words(), todo)];
    };
    let (limit, whose) = match facts.cgroup.filter(|&limit| limit < ram) {
        Some(limit) => (limit, "the cgroup allows"),
        None => (ram, "this machine has"),
    };
    let (total, words) = (needs.total(), needs.words());
    let found = format!("{whose} {}; needed: {words}", size(limit));
    let todo = "lower engine.kv_cells, engine.n_ctx, engine.slots or engine.kv_park_bytes, or \
                take a smaller model";
    let available = facts.available.unwrap_or(limit);
    vec![if total > limit {
        Line::bad(CHECK, found, todo)
    } else if total > limit / 10 * 9 {
        Line::warn(CHECK, found, todo)
    } else if !serves && total > available {
        let todo = "end what else takes memory, or add RAM";
        let found = format!("only {} are free; needed: {words}", size(available));
        Line::warn(CHECK, found, todo)
    } else {
        Line::good(CHECK, found)
    }]
}

pub fn lock(facts: &Facts, settings: &engine::Settings, model: u64, running: &Running) -> Line {
    const CHECK: &str = "memory.lock";
    if settings.kind != Kind::Llama {
        return Line::good(CHECK, "nothing to lock");
    }
    if !settings.mlock {
        return Line::warn(
            CHECK,
            "engine.mlock is off: the model may be swapped out",
            "set engine.mlock = true where the machine has swap",
        );
    }
    // What the running gateway holds says more than this shell's limit.
    if let Some(locked) = running.locked {
        return match locked {
            0 => Line::warn(
                CHECK,
                "the running gateway has locked nothing",
                format!(
                    "raise its limit to {} KiB (systemd: LimitMEMLOCK=infinity) and restart it",
                    model >> 10
                ),
            ),
            _ => Line::good(
                CHECK,
                format!("the running gateway has {} locked", size(locked)),
            ),
        };
    }
    match facts.memlock {
        None => Line::good(CHECK, "`ulimit -l` is unlimited"),
        Some(limit) if limit >= model => Line::good(
            CHECK,
            format!("`ulimit -l` is {}, the model {}", size(limit), size(model)),
        ),
        Some(limit) => Line::warn(
            CHECK,
            format!(
                "`ulimit -l` is {} KiB here, the model needs {} KiB",
                limit >> 10,
                model >> 10
            ),
            "raise it for the service (systemd: LimitMEMLOCK=infinity, containers: \
             --ulimit memlock=-1) or set engine.mlock = false",
        ),
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
mod tests {
    use super::*;
    use crate::doctor::report::Level;

    fn facts() -> Facts {
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

    /// BioMistral-7B with the default settings.
    fn needs() -> Needs {
        Needs {
            model: 4_370_000_000,
            copies: 4_370_000_000,
            kv: 4 << 30,
            parked: 2 << 30,
            sessions: 256 << 20,
            cache: 64 << 20,
            policies: 80 << 20,
        }
    }

    #[test]
    fn the_machine_it_is_made_for_is_good() {
        let (facts, settings) = (facts(), engine::Settings::default());
        let mut lines = memory(&facts, &needs(), false);
        lines.extend(cores(&facts, &settings));
        lines.push(code(&facts, &settings));
        lines.push(lock(&facts, &settings, needs().model, &Running::default()));
        lines.push(huge_pages(&facts));
        lines.push(descriptors(&facts));
        for line in lines {
            assert_eq!(line.level, Level::Good, "{line:?}");
        }
    }

    #[test]
    fn memory_is_judged_by_what_there_is() {
        let level = |change: fn(&mut Facts)| {
            let mut facts = facts();
            change(&mut facts);
            let [line] = &memory(&facts, &needs(), false)[..] else {
                panic!("one line")
            };
            assert_eq!(line.todo.is_some(), line.level != Level::Good);
            line.level
        };
        assert_eq!(level(|f| f.ram = Some(8 << 30)), Level::Bad);
        assert_eq!(level(|f| f.cgroup = Some(8 << 30)), Level::Bad);
        assert_eq!(level(|f| f.ram = Some(15 << 30)), Level::Warn);
        assert_eq!(level(|f| f.available = Some(2 << 30)), Level::Warn);
        assert_eq!(level(|f| f.ram = None), Level::Warn);
        let mut busy = facts();
        busy.available = Some(2 << 30);
        assert_eq!(memory(&busy, &needs(), true)[0].level, Level::Good);
    }

    #[test]
    fn a_lock_is_judged_by_the_limit_and_by_what_runs() {
        let settings = engine::Settings::default();
        let mut small = facts();
        small.memlock = Some(64 << 10);
        let line = lock(&small, &settings, needs().model, &Running::default());
        assert_eq!(line.level, Level::Warn);
        assert!(line.found.contains("64 KiB"), "{line:?}");
        let holds = |locked| Running {
            locked: Some(locked),
            ..Running::default()
        };
        let line = lock(&small, &settings, needs().model, &holds(4_370_000_000));
        assert_eq!(line.level, Level::Good);
        let line = lock(&facts(), &settings, needs().model, &holds(0));
        assert_eq!(line.level, Level::Warn);
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
