//! The policies that come inside the program.

use super::policies::PolicyError;
use super::settings::Settings;
use super::stage::{Rejection, Stage};
use super::types::Hook;

include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// The bundled policy that serves a hook unless the configuration names another. Guard and
/// filter change what users see; they serve only when asked for.
pub(super) fn default(hook: Hook) -> &'static str {
    match hook {
        Hook::Prompt => "prompt-mistral",
        Hook::Trim => "trim-exchanges",
        Hook::Cache => "cache-exact",
        Hook::Guard | Hook::Filter => "none",
    }
}

/// Name and bytes of the policy that the settings choose; `None` where native code serves.
pub(super) fn chosen(
    settings: &Settings,
    hook: Hook,
) -> Result<Option<(&str, &'static [u8])>, PolicyError> {
    let chosen = settings.hook(hook).bundled.as_deref();
    let name = chosen.unwrap_or_else(|| default(hook));
    if name == "none" {
        return Ok(None);
    }
    match source(name) {
        Ok(bytes) => Ok(Some((name, bytes))),
        Err(reason) => Err(PolicyError::Settings(format!(
            "policies.{hook}.bundled: {reason}"
        ))),
    }
}

/// The policy was chosen for a hook that it does not serve.
pub(super) fn elsewhere(hook: Hook, name: &str) -> PolicyError {
    PolicyError::Bundled {
        key: format!("policies.{hook}.bundled"),
        name: name.to_owned(),
        reason: format!("it does not serve the {hook} hook"),
    }
}

/// The policy did not pass a stage. What it says of `config.KEY` is said of the whole key.
pub(super) fn unfit(hook: Hook, name: &str, rejection: &Rejection) -> PolicyError {
    let config = format!("policies.{hook}.config");
    let said = rejection.reason.strip_prefix("it reported: config");
    let (key, reason) = match said
        .filter(|_| rejection.stage == Stage::Configure)
        .and_then(|said| said.split_once(": "))
    {
        Some((below, problem)) => (format!("{config}{below}"), problem.to_owned()),
        None => (config, format!("it cannot serve: {rejection}")),
    };
    PolicyError::Bundled {
        key,
        name: name.to_owned(),
        reason,
    }
}

/// Its bytes, or a sentence that names what there is.
pub(super) fn source(name: &str) -> Result<&'static [u8], String> {
    let found = BUNDLED.iter().find(|(known, _)| *known == name);
    found.map(|(_, bytes)| *bytes).ok_or_else(|| {
        let known: Vec<_> = BUNDLED.iter().map(|(name, _)| *name).collect();
        format!(
            "{name:?} is not a bundled policy, expected none or one of {}",
            known.join(", ")
        )
    })
}
