//! What every component exports. What this policy decides is in `hook.rs`.

wit_bindgen::generate!({ path: "wit", world: "{{world}}" });

mod hook;
mod settings;

use std::sync::OnceLock;

use exports::stent::policy::policy::{Descriptor, Guest};
use hook::Config;
use settings::Settings;

const SCHEMA: &str = include_str!("../config.schema.json");

struct Plugin;
export!(Plugin);

static CONFIG: OnceLock<Config> = OnceLock::new();

fn config() -> Result<&'static Config, String> {
    CONFIG
        .get()
        .ok_or_else(|| "configure was not called".into())
}

impl Guest for Plugin {
    fn describe() -> Descriptor {
        Descriptor {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: hook::SUMMARY.into(),
            config_schema: Some(SCHEMA.into()),
        }
    }

    fn configure(json: String) -> Result<(), String> {
        let config = Config::new(&Settings::read(SCHEMA, &json)?)?;
        CONFIG
            .set(config)
            .map_err(|_| "configure was called twice".into())
    }

    fn self_test() -> Result<(), String> {
        config()?.self_test()
    }
}
