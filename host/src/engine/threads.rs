//! How many threads may compute: never more than the machine gives to this process.
//!
//! Threads beyond that spin against each other: eight of them on two cores run at a fraction of the
//! speed of two.

use std::path::Path;

/// What limits the number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// CPUs of the affinity mask.
    pub affinity: u32,
    /// CPUs of the cgroup's quota, rounded down; `None` without a quota.
    pub quota: Option<u32>,
}

/// A clamped number of threads and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clamped {
    pub threads: u32,
    /// Says what was asked for and what there is; `None` when nothing was taken away.
    pub reason: Option<String>,
}

/// `asked` threads, or as many as `machine` has.
pub fn clamp(key: &str, asked: u32, machine: Machine) -> Clamped {
    let Machine { affinity, quota } = machine;
    let most = affinity.min(quota.unwrap_or(u32::MAX)).max(1);
    if asked <= most {
        return Clamped {
            threads: asked,
            reason: None,
        };
    }
    let limit = match quota {
        Some(quota) if quota < affinity => format!("the cgroup's quota is {most} CPUs"),
        _ => format!("this process may use {most} CPUs"),
    };
    let reason = format!("engine.{key}: {asked} asked for, {most} used, because {limit}");
    Clamped {
        threads: most,
        reason: Some(reason),
    }
}

impl Machine {
    /// The limits of this process.
    pub fn here() -> Self {
        let affinity = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        Self {
            affinity,
            quota: quota(Path::new("/sys/fs/cgroup"), Path::new("/proc/self/cgroup")),
        }
    }
}

/// The tightest quota on the way from the process's cgroup to the root (cgroup v2), or the one of
/// cgroup v1's cpu controller.
pub fn quota(root: &Path, own: &Path) -> Option<u32> {
    let own = std::fs::read_to_string(own).ok()?;
    let v2 = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let v1 = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let controllers = fields.nth(1)?;
        controllers
            .split(',')
            .any(|c| c == "cpu")
            .then(|| fields.next())?
    });
    let from_v2 = v2.and_then(|path| {
        tightest(root, path, |dir| {
            let text = std::fs::read_to_string(dir.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            Some((quota.parse().ok()?, period.parse().ok()?))
        })
    });
    let from_v1 = v1.and_then(|path| {
        tightest(&root.join("cpu"), path.trim_start_matches('/'), |dir| {
            let read = |name: &str| {
                std::fs::read_to_string(dir.join(name))
                    .ok()?
                    .trim()
                    .parse()
                    .ok()
            };
            Some((read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?))
        })
    });
    from_v2.into_iter().chain(from_v1).min()
}

fn tightest(root: &Path, path: &str, read: impl Fn(&Path) -> Option<(i64, i64)>) -> Option<u32> {
    let below = root.join(path);
    let quotas = below
        .ancestors()
        .take_while(|dir| dir.starts_with(root))
        .filter_map(read);
    let cpus = quotas.filter(|&(quota, period)| quota > 0 && period > 0);
    // A quota of half a CPU still needs one thread.
    cpus.map(|(quota, period)| u32::try_from(quota / period).unwrap_or(u32::MAX).max(1))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(asked: u32, affinity: u32, quota: Option<u32>) -> u32 {
        clamp("threads", asked, Machine { affinity, quota }).threads
    }

    #[test]
    fn the_smallest_limit_wins() {
        assert_eq!(threads(8, 2, None), 2);
        assert_eq!(threads(8, 16, Some(3)), 3);
        assert_eq!(threads(8, 16, Some(40)), 8);
        assert_eq!(threads(8, 0, Some(0)), 1);
        let clamped = clamp(
            "threads",
            8,
            Machine {
                affinity: 4,
                quota: Some(2),
            },
        );
        let said = "engine.threads: 8 asked for, 2 used, because the cgroup's quota is 2 CPUs";
        assert_eq!(clamped.reason.as_deref(), Some(said));
        assert_eq!(
            clamp(
                "threads",
                2,
                Machine {
                    affinity: 4,
                    quota: None
                }
            )
            .reason,
            None
        );
    }

    #[test]
    fn quotas_are_read_up_to_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = dir.path().join("system.slice/stent.service");
        std::fs::create_dir_all(&leaf).unwrap();
        let own = dir.path().join("own");
        std::fs::write(&own, "0::/system.slice/stent.service\n").unwrap();
        assert_eq!(quota(dir.path(), &own), None);
        std::fs::write(leaf.join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(quota(dir.path(), &own), None);
        std::fs::write(dir.path().join("system.slice/cpu.max"), "250000 100000\n").unwrap();
        assert_eq!(quota(dir.path(), &own), Some(2));
        let clamped = |affinity| {
            let quota = quota(dir.path(), &own);
            clamp("threads", 8, Machine { affinity, quota })
        };
        assert_eq!((clamped(16).threads, clamped(1).threads), (2, 1));
        assert!(
            clamped(16)
                .reason
                .unwrap()
                .ends_with("the cgroup's quota is 2 CPUs")
        );
        std::fs::write(leaf.join("cpu.max"), "50000 100000\n").unwrap();
        assert_eq!(quota(dir.path(), &own), Some(1));
    }

    #[test]
    fn the_older_cgroups_are_read_too() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = dir.path().join("cpu/docker/x");
        std::fs::create_dir_all(&leaf).unwrap();
        let own = dir.path().join("own");
        std::fs::write(&own, "4:cpu,cpuacct:/docker/x\n1:name=systemd:/\n").unwrap();
        std::fs::write(leaf.join("cpu.cfs_quota_us"), "300000\n").unwrap();
        std::fs::write(leaf.join("cpu.cfs_period_us"), "100000\n").unwrap();
        assert_eq!(quota(dir.path(), &own), Some(3));
    }
}
