//! The policies that come inside the program.

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
