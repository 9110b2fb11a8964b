//! What the kernel knows about this process, read from /proc at each scrape.

use std::fs;

/// Clock ticks a second in /proc: fixed at 100 by the kernel's ABI, whatever its timer runs at.
const TICKS: f64 = 100.0;

/// A field is absent where /proc did not tell it.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Process {
    /// VmRSS in bytes.
    pub resident: Option<i64>,
    /// VmLck in bytes: what mlock really holds.
    pub locked: Option<i64>,
    /// User and system time in seconds.
    pub cpu: Option<f64>,
    /// CPUs that it may use.
    pub cpus: Option<usize>,
    /// Start, in seconds since 1970.
    pub started: Option<f64>,
}

impl Process {
    pub fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let system = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self {
            resident: bytes(&status, "VmRSS:"),
            locked: bytes(&status, "VmLck:"),
            cpu: ticks(&stat, 14)
                .zip(ticks(&stat, 15))
                .map(|(user, system)| user + system),
            cpus: std::thread::available_parallelism().ok().map(usize::from),
            started: boot(&system)
                .zip(ticks(&stat, 22))
                .map(|(boot, since)| boot + since),
        }
    }
}

fn bytes(status: &str, key: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Field `n` of /proc/self/stat (proc(5) counts from 1), in seconds.
fn ticks(stat: &str, n: usize) -> Option<f64> {
    // The second field is the program's name in brackets and may hold spaces: count after it.
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks: f64 = after_name.split_whitespace().nth(n - 3)?.parse().ok()?;
    Some(ticks / TICKS)
}

fn boot(system: &str) -> Option<f64> {
    system
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_the_programs_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4 5 6 7 8 150 50 0 0 20 0 9 0 12345 1 1";
        assert_eq!(ticks(stat, 14), Some(1.5));
        assert_eq!(ticks(stat, 15), Some(0.5));
        assert_eq!(ticks(stat, 22), Some(123.45));
    }

    #[test]
    fn this_process_is_alive_and_resident() {
        let process = Process::read();
        assert!(process.resident.is_some_and(|bytes| bytes > 1 << 20));
        assert!(process.locked.is_some());
        assert!(process.cpu.is_some());
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_secs_f64();
        assert!(
            process
                .started
                .is_some_and(|start| start > now - 86_400.0 && start < now + 2.0)
        );
    }

    #[test]
    fn a_missing_line_is_an_absent_value() {
        assert_eq!(bytes("VmRSS:\t  12 kB\n", "VmRSS:"), Some(12 * 1024));
        assert_eq!(bytes("", "VmRSS:"), None);
        assert_eq!(ticks("", 14), None);
    }
}
