//! The `[engine]` section of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::gpu;
use super::upstream::settings as upstream;
use crate::types::Seed;
use crate::types::units::{bytes, duration};

/// How the engine is set up. Sizes are in tokens unless the name says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub kind: Kind,
    /// The GGUF file.
    pub model: PathBuf,
    /// Threads for a decode step; never more than affinity and cgroup quota allow.
    pub threads: u32,
    /// Threads for a step that also computes prompt tokens; clamped as `threads`.
    pub threads_batch: u32,
    /// Context of one slot: prompt and answer together.
    pub n_ctx: u32,
    /// Most tokens in one step.
    pub n_batch: u32,
    /// Most tokens in one pass over the weights. Also the longest piece of a prompt that is
    /// computed at once while nobody else is waiting, and so how late a cancel or another
    /// question can take effect. Larger ones read prompts only a little faster.
    pub n_ubatch: u32,
    /// Answers generated at the same time.
    pub slots: u32,
    /// Requests that may wait for a slot; the next one is answered with 429.
    pub queue: u32,
    /// Lock the model in RAM. Needs `ulimit -l` or CAP_IPC_LOCK; a failure is a warning.
    pub mlock: bool,
    /// Whose matrix products are used.
    pub kernels: Kernels,
    /// Map the file instead of reading it.
    pub mmap: bool,
    /// Longest answer of a request that does not say.
    pub max_tokens: u32,
    /// Temperature of a request that does not say; 0 is greedy.
    pub temperature: f32,
    /// Seed of a request that does not say.
    pub seed: Seed,
    /// Layers to put on a GPU; more than the model has means all. Other than 0 only in a build with
    /// the cargo feature `cuda`, `vulkan` or `metal`.
    pub gpu_layers: u32,
    /// Cells of the KV cache that all slots and idle sessions share; 0: `slots` x `n_ctx`.
    pub kv_cells: u32,
    /// Bytes of RAM (or "2GiB") for the KV of idle sessions that no longer fit the cache; 0: none
    /// is parked.
    #[serde(with = "bytes")]
    pub kv_park_bytes: u64,
    /// Sessions whose KV may stay in the cache while they are idle.
    pub kv_sessions: u32,
    /// Longest step while answers stream, e.g. "400ms"; "auto": four times a step without prompt
    /// tokens, measured as it goes.
    pub step_budget: StepBudget,
    /// A busy engine without progress for this long makes /ready fail.
    #[serde(with = "duration")]
    pub stall_after: Duration,
    /// Guess tokens from the prompt's own text while at most two slots are busy.
    pub speculation: bool,
    /// The servers of kind "openai".
    pub upstreams: Vec<upstream::Target>,
    /// How they are asked.
    pub upstream: upstream::Settings,
    /// What kind "scripted" says and how fast.
    pub script: Script,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// llama.cpp in this process.
    Llama,
    /// A fixed text at a set pace, without a model.
    Scripted,
    /// Other servers that speak OpenAI's API.
    Openai,
}

/// Who multiplies with the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernels {
    /// Stent's own where the processor has their instructions and a probe succeeds.
    Auto,
    /// Those of ggml, as llama.cpp has them.
    Ggml,
}

/// `"auto"` or a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepBudget {
    Auto,
    #[serde(untagged, with = "duration")]
    Fixed(Duration),
}

/// The scripted engine's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    pub text: String,
    /// Time of a step that generates; each running answer gets one word of it.
    #[serde(with = "duration")]
    pub token: Duration,
    /// Time added to a step for every prompt token in it.
    #[serde(with = "duration")]
    pub prefill: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kind: Kind::Llama,
            model: "models/demo/stent-demo.gguf".into(),
            threads: 8,
            threads_batch: 8,
            n_ctx: 8192,
            n_batch: 2048,
            n_ubatch: 128,
            slots: 4,
            queue: 64,
            mlock: true,
            kernels: Kernels::Auto,
            mmap: true,
            max_tokens: 1024,
            temperature: 0.7,
            seed: Seed::Derived,
            gpu_layers: 0,
            kv_cells: 0,
            kv_park_bytes: 2 << 30,
            kv_sessions: 32,
            step_budget: StepBudget::Auto,
            stall_after: Duration::from_secs(60),
            speculation: true,
            upstreams: Vec::new(),
            upstream: upstream::Settings::default(),
            script: Script::default(),
        }
    }
}

impl Default for Script {
    fn default() -> Self {
        Self {
            text: "This is the scripted engine: it says the same words to everyone.".into(),
            token: Duration::ZERO,
            prefill: Duration::ZERO,
        }
    }
}

/// Sequences that llama.cpp can tell apart in one cache.
const MAX_SEQUENCES: u32 = 256;

/// Sequences beyond slots and idle sessions: shared heads, the padding row and spare room.
pub const SPARE_SEQUENCES: u32 = 6;

impl Settings {
    /// Cells of the whole cache.
    pub fn cells(&self) -> u32 {
        match self.kv_cells {
            0 => self.slots.saturating_mul(self.n_ctx),
            cells => cells,
        }
    }

    /// The first setting that cannot work, as one sentence: key, value, what would be right.
    pub fn validate(&self) -> Result<(), String> {
        let at_least_one = [
            ("threads", self.threads),
            ("threads_batch", self.threads_batch),
            ("n_ctx", self.n_ctx),
            ("n_batch", self.n_batch),
            ("n_ubatch", self.n_ubatch),
            ("slots", self.slots),
            ("max_tokens", self.max_tokens),
        ];
        if let Some((key, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(format!("engine.{key}: 0, expected at least 1"));
        }
        let sequences = self.slots.saturating_add(self.kv_sessions);
        if self.kind != Kind::Openai && sequences > MAX_SEQUENCES - SPARE_SEQUENCES {
            return Err(format!(
                "engine.slots + engine.kv_sessions: {sequences}, expected at most {}",
                MAX_SEQUENCES - SPARE_SEQUENCES
            ));
        }
        // A row for each answer, and beside them a block of prompt tokens.
        let rows = self.slots.saturating_add(16);
        if self.n_batch < rows {
            return Err(format!(
                "engine.n_batch: {}, expected at least engine.slots + 16 = {rows}",
                self.n_batch
            ));
        }
        if self.n_ubatch > self.n_batch {
            return Err(format!(
                "engine.n_ubatch: {}, expected at most engine.n_batch = {}",
                self.n_ubatch, self.n_batch
            ));
        }
        if self.max_tokens >= self.n_ctx {
            return Err(format!(
                "engine.max_tokens: {}, expected less than engine.n_ctx = {}",
                self.max_tokens, self.n_ctx
            ));
        }
        if u64::from(self.slots) * u64::from(self.n_ctx) > u64::from(u32::MAX / 2) {
            return Err(format!(
                "engine.n_ctx: {} for each of {} slots, expected at most {} in all",
                self.n_ctx,
                self.slots,
                u32::MAX / 2
            ));
        }
        if self.kv_cells != 0 && self.kv_cells < self.n_ctx {
            return Err(format!(
                "engine.kv_cells: {}, expected 0 or at least engine.n_ctx = {}",
                self.kv_cells, self.n_ctx
            ));
        }
        if self.kv_cells > u32::MAX / 2 {
            return Err(format!(
                "engine.kv_cells: {}, expected at most {}",
                self.kv_cells,
                u32::MAX / 2
            ));
        }
        if !(0.0..=10.0).contains(&self.temperature) {
            return Err(format!(
                "engine.temperature: {}, expected 0 to 10",
                self.temperature
            ));
        }
        if self.gpu_layers != 0 && gpu::BUILT.is_empty() {
            return Err(format!(
                "engine.gpu_layers: {}, expected 0: this build has CPU code only (docs/gpu.md)",
                self.gpu_layers
            ));
        }
        if self.stall_after < Duration::from_secs(1) {
            return Err(format!(
                "engine.stall_after: {}, expected at least 1s",
                humantime::format_duration(self.stall_after)
            ));
        }
        match self.kind {
            Kind::Openai => upstream::validate(&self.upstreams, &self.upstream),
            Kind::Llama | Kind::Scripted => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let text = toml::to_string(&Settings::default()).unwrap();
        assert_eq!(
            toml::from_str::<Settings>(&text).unwrap(),
            Settings::default()
        );
    }

    #[test]
    fn seeds_and_budgets_have_words_and_values() {
        let read = |text: &str| toml::from_str::<Settings>(text).unwrap();
        assert_eq!(read("seed = \"random\"").seed, Seed::Random);
        assert_eq!(read("seed = 7").seed, Seed::Fixed(7));
        let budget = read("step_budget = \"250ms\"").step_budget;
        assert_eq!(budget, StepBudget::Fixed(Duration::from_millis(250)));
        assert!(toml::from_str::<Settings>("sloots = 4").is_err());
    }

    #[test]
    fn a_setting_that_cannot_work_is_named() {
        let refused = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.validate().unwrap_err()
        };
        assert!(refused(|s| s.slots = 0).contains("engine.slots: 0"));
        assert!(refused(|s| s.kv_cells = 100).contains("engine.n_ctx = 8192"));
        assert!(refused(|s| s.kind = Kind::Openai).contains("engine.upstreams: empty"));
        assert!(refused(|s| s.max_tokens = 8192).contains("engine.max_tokens: 8192"));
        assert!(refused(|s| s.gpu_layers = 9).contains("CPU code only"));
    }
}
