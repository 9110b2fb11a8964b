//! The configuration: defaults, then a TOML file, then `STENT_*` variables, then `--set`.
//!
//! Only `main` sees it: every stage gets its own section and nothing else.

mod environment;
mod layers;
mod shown;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use layers::Overrides;

use crate::types::place;
use crate::types::wording::without_login;
use crate::{cache, engine, http, policy, session, trace};

/// The whole configuration. Every section and key is optional; none may be unknown.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: http::Settings,
    pub engine: engine::Settings,
    pub policies: policy::Settings,
    pub sessions: session::Settings,
    pub cache: cache::Settings,
    pub telemetry: trace::Settings,
    pub log: trace::LogSettings,
    /// Where sessions, revisions, caches and remembered probes live.
    pub data: Data,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    pub dir: PathBuf,
}

impl Default for Data {
    fn default() -> Self {
        Self { dir: "data".into() }
    }
}

/// A mistake in the configuration: which source, which key, what was found and expected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration file {path}: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("configuration file {path}: {message}")]
    File { path: PathBuf, message: String },
    #[error("{origin}: {message}")]
    Override { origin: String, message: String },
    #[error("{0}")]
    Value(String),
}

impl Config {
    /// Reads all layers and checks the result.
    ///
    /// # Errors
    /// The first mistake found, in words that name the key and what would be right.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut table = match file {
            Some(path) => layers::file(path)?,
            None => toml::Table::new(),
        };
        let config = layers::overlay(&mut table, overrides)?;
        config.check()?;
        Ok(config)
    }

    /// What no type can say.
    fn check(&self) -> Result<(), ConfigError> {
        fn told(error: impl ToString) -> ConfigError {
            // Where an address is wrong, its password is not repeated.
            ConfigError::Value(without_login(&error.to_string()))
        }
        self.server.check().map_err(told)?;
        self.engine.validate().map_err(told)?;
        self.policies.check().map_err(told)?;
        self.sessions.check().map_err(told)?;
        self.cache.check().map_err(told)?;
        self.telemetry.validate().map_err(told)?;
        self.log.validate().map_err(told)?;
        place::folder("data.dir", "--data", &self.data.dir).map_err(told)
    }

    /// What works and is probably not meant: one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        self.server.warnings()
    }

    /// The effective configuration as a TOML file.
    ///
    /// # Errors
    /// When a value has no TOML form; no configuration that was read can have one.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }
}

#[cfg(test)]
mod tests;
