//! Memory: what a gateway may come to hold against what there is, and whether it can be locked.

use super::machine::Facts;
use super::report::Line;
use super::running::Running;
use crate::cache;
use crate::config::Config;
use crate::engine::settings::Kernels;
use crate::engine::{self, Header, Kind, cpu};

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
    /// Instances that wait, each with as much memory as a policy may take.
    pub policies: u64,
}

/// Hooks that keep instances warm.
const HOOKS: u64 = 5;

impl Needs {
    pub fn of(config: &Config, header: Option<&Header>) -> Self {
        let (engine, limits) = (&config.engine, &config.policies.limits);
        let instances = (HOOKS * limits.warm as u64).min(u64::from(limits.instances));
        let local = engine.kind == Kind::Llama;
        let model = header.map_or(0, |h| h.file_bytes);
        let kv = header.and_then(|h| h.kv_bytes);
        let own = engine.kernels == Kernels::Auto && engine.gpu_layers == 0 && cpu::own_possible();
        Self {
            model,
            // The own kernels read the file into the form they need.
            copies: if engine.mmap && !own { model } else { 0 },
            kv: kv.unwrap_or(0).saturating_mul(u64::from(engine.cells())),
            parked: if local { engine.kv_park_bytes } else { 0 },
            sessions: config.sessions.max_bytes,
            cache: match config.cache.store {
                cache::Store::Memory => config.cache.max_bytes,
                cache::Store::Off | cache::Store::Redis(_) => 0,
            },
            policies: instances.saturating_mul(limits.memory),
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
             sessions {}, cache {}, policies up to {}",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::machine::tests::facts;
    use crate::doctor::report::Level;

    /// BioMistral-7B with the default settings.
    fn needs() -> Needs {
        Needs {
            model: 4_370_000_000,
            copies: 4_370_000_000,
            kv: 4 << 30,
            parked: 2 << 30,
            sessions: 256 << 20,
            cache: 64 << 20,
            policies: 2560 << 20,
        }
    }

    #[test]
    fn the_machine_it_is_made_for_is_good() {
        let settings = engine::Settings::default();
        let mut lines = memory(&facts(), &needs(), false);
        lines.push(lock(
            &facts(),
            &settings,
            needs().model,
            &Running::default(),
        ));
        for line in lines {
            assert_eq!(line.level, Level::Good, "{line:?}");
        }
    }

    #[test]
    fn policies_are_counted_by_what_they_may_take() {
        let mut config = Config::default();
        config.policies.limits.memory = 1 << 20;
        config.policies.limits.warm = 8;
        assert_eq!(Needs::of(&config, None).policies, 40 << 20);
        config.policies.limits.instances = 10;
        assert_eq!(Needs::of(&config, None).policies, 10 << 20);
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
        assert_eq!(level(|f| f.ram = Some(18 << 30)), Level::Warn);
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
}
