//! The conditions that a policy is tried under: an operator's configuration and a tokenizer.

use std::path::{Path, PathBuf};

use clap::Args;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use super::Error;
use crate::config::{Config, Overrides};
use crate::engine::{self, Kind};
use crate::policy::Workbench;

/// What would hold in the gateway.
#[derive(Args, Clone, Debug)]
pub struct Conditions {
    /// The gateway's configuration (TOML): limits, keys, pins and the policies' own tables
    #[arg(long, env = "STENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any key of the configuration, such as policies.trim.config.exchanges=5; may be repeated
    #[arg(long, value_name = "key.path=value")]
    set: Vec<String>,
    /// Model whose tokenizer is used [default: the configured one, which is the demo model]
    #[arg(long, value_name = "GGUF")]
    model: Option<PathBuf>,
}

impl Conditions {
    pub fn config(&self) -> Result<Config, Error> {
        let mut overrides = Overrides::from_env(std::env::vars());
        for assignment in &self.set {
            overrides.set(assignment)?;
        }
        let mut config = Config::load(self.config.as_deref(), &overrides)?;
        if let Some(model) = &self.model {
            config.engine.model = model.clone();
        }
        Ok(config)
    }

    /// A workbench with the configured limits and tokenizer.
    pub fn open(&self) -> Result<(Config, Workbench), Error> {
        let mut config = self.config()?;
        settle_model(&mut config);
        let tokenizer = engine::tokenizer(&config.engine).map_err(Error::Model)?;
        let bench = Workbench::open(config.policies.clone(), tokenizer)?;
        Ok((config, bench))
    }

    /// The same where exact tokens do not matter: without a model, bytes are counted. The flag
    /// says whether they are.
    pub fn open_without_model(&self) -> Result<(Config, Workbench, bool), Error> {
        let mut config = self.config()?;
        settle_model(&mut config);
        let rough = self.model.is_none()
            && config.engine.kind == Kind::Llama
            && !config.engine.model.exists();
        if rough {
            config.engine.kind = Kind::Scripted;
        }
        let tokenizer = engine::tokenizer(&config.engine).map_err(Error::Model)?;
        let bench = Workbench::open(config.policies.clone(), tokenizer)?;
        Ok((config, bench, rough))
    }
}

/// Authors work anywhere: the demo model is also looked for around the program itself.
fn settle_model(config: &mut Config) {
    let standard = engine::Settings::default().model;
    if config.engine.model != standard || standard.exists() {
        return;
    }
    let program = std::env::current_exe().unwrap_or_default();
    let around = program.ancestors().skip(1).take(4);
    let found = around
        .map(|folder| folder.join(&standard))
        .find(|model| model.exists());
    if let Some(model) = found {
        config.engine.model = model;
    }
}

/// Prints what a policy logs to standard error: its author wants to read it.
pub fn show_guest_logs() {
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .with_filter(filter_fn(|meta| {
            meta.is_event() && meta.target() == "stent::policy"
        }));
    // Where somebody listens already, they hear it.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

/// `NAME.cases.json` beside `NAME.wasm`.
pub fn cases_beside(wasm: &Path) -> PathBuf {
    wasm.with_extension("cases.json")
}

/// Sizes as the configuration writes them: powers of two.
pub fn human(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match bytes {
        MIB.. => format!("{:.1} MiB", bytes as f64 / MIB as f64),
        KIB.. => format!("{:.1} KiB", bytes as f64 / KIB as f64),
        _ => format!("{bytes} bytes"),
    }
}
