//! One look at a gateway, and what two of them tell together.

use std::time::Instant;

use reqwest::Method;
use serde::Serialize;
use serde_json::Value;

use crate::policy_cli::{Error, Remote};

/// The answer of `/admin/status`, and when it came.
#[derive(Clone, Debug)]
pub struct Sample {
    answer: Value,
    at: Instant,
}

/// What passed between two looks. `None` where the gateway was started anew in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Tokens drawn for answers, a second.
    pub generated: Option<f64>,
    /// Prompt tokens computed, a second.
    pub prefilled: Option<f64>,
    /// Percent of the CPUs that the process may use.
    pub cpu: Option<f64>,
}

impl Sample {
    pub fn ask(remote: &Remote) -> Result<Self, Error> {
        let answer = remote.ask(Method::GET, "/admin/status", None)?;
        let at = Instant::now();
        Ok(Self { answer, at })
    }

    pub fn value(&self) -> &Value {
        &self.answer
    }

    pub fn ready(&self) -> bool {
        self.answer["ready"] == true
    }

    /// The number at a JSON pointer.
    pub fn number(&self, path: &str) -> Option<f64> {
        self.answer.pointer(path)?.as_f64()
    }

    pub fn since(&self, before: &Self) -> Rates {
        if self.answer["pid"] != before.answer["pid"] {
            return Rates::default();
        }
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let rate = |path: &str| {
            let passed = self.number(path)? - before.number(path)?;
            (seconds > 0.0).then_some((passed / seconds).max(0.0))
        };
        let cpus = self.number("/process/cpus").filter(|cpus| *cpus > 0.0);
        let cpu = rate("/process/cpu").zip(cpus);
        Rates {
            generated: rate("/totals/generated"),
            prefilled: rate("/totals/prefilled"),
            cpu: cpu.map(|(used, cpus)| 100.0 * used / cpus),
        }
    }
}
