//! The watch-list: what of a gateway is looked at, and where good ends.

use serde::Serialize;

use super::sample::{Rates, Sample};

const GIB: f64 = (1_u64 << 30) as f64;

/// How a value is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Good,
    Warn,
    Critical,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Critical => "critical",
        }
    }

    /// Good below `warn`, critical above `critical`.
    fn of(value: f64, warn: f64, critical: f64) -> Self {
        match value {
            value if value > critical => Self::Critical,
            value if value >= warn => Self::Warn,
            _ => Self::Good,
        }
    }
}

/// One value of the watch-list.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Judged {
    pub value: f64,
    pub level: Level,
}

impl Judged {
    fn new(value: f64, warn: f64, critical: f64) -> Self {
        let level = Level::of(value, warn, critical);
        Self { value, level }
    }
}

/// The four values that the old server was watched by. `None` is not known (yet).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Watched {
    /// Resident memory in bytes: good below 20 GiB, critical above 24.
    pub memory: Option<Judged>,
    /// Percent of the CPUs that the process may use: good below 80, critical above 95.
    pub cpu: Option<Judged>,
    /// Seconds to the first words, 95th percentile of five minutes: good below 1, critical above 3.
    pub first_words: Option<Judged>,
    /// Within 24 hours: good is none, and three are critical.
    pub restarts: Option<Judged>,
}

impl Watched {
    pub fn of(sample: &Sample, rates: &Rates) -> Self {
        let number = |path: &str| sample.number(path);
        Self {
            memory: number("/process/resident").map(|v| Judged::new(v, 20.0 * GIB, 24.0 * GIB)),
            cpu: rates.cpu.map(|v| Judged::new(v, 80.0, 95.0)),
            first_words: number("/first_words/p95").map(|v| Judged::new(v, 1.0, 3.0)),
            restarts: number("/restarts/day").map(|v| Judged::new(v, 1.0, 2.0)),
        }
    }

    /// The worst of them.
    pub fn worst(&self) -> Level {
        let all = [self.memory, self.cpu, self.first_words, self.restarts];
        let levels = all.into_iter().flatten().map(|judged| judged.level);
        levels.max().unwrap_or(Level::Good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watch_list_ends_where_it_says() {
        let level = |value, warn, critical| Level::of(value, warn, critical).as_str();
        assert_eq!(level(19.9, 20.0, 24.0), "good");
        assert_eq!(level(20.0, 20.0, 24.0), "warn");
        assert_eq!(level(24.0, 20.0, 24.0), "warn");
        assert_eq!(level(24.1, 20.0, 24.0), "critical");
        assert_eq!(level(0.0, 1.0, 2.0), "good");
        assert_eq!(level(2.0, 1.0, 2.0), "warn");
        assert_eq!(level(3.0, 1.0, 2.0), "critical");
    }
}
