//! How much memory a process holds, as the kernel counts it.

/// Gibibytes of a process: resident (with the pages of a mapped model) and locked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Held {
    pub resident: f64,
    pub locked: f64,
}

/// Reads `/proc/PID/status`; `None` where there is no such process.
pub fn of(pid: u32) -> Option<Held> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// Takes `VmRSS` and `VmLck` from the text of a `status` file, which gives them in kB.
pub fn parse(status: &str) -> Option<Held> {
    let field = |name: &str| -> Option<f64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib / f64::from(1 << 20))
    };
    Some(Held {
        resident: field("VmRSS:")?,
        locked: field("VmLck:")?,
    })
}

/// Processes that want a core, averaged over the last minute.
pub fn load_average() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}
