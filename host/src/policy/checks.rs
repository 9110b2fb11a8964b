//! What the operator asks of a file beside the contract. The reconciler and the workbench ask
//! alike, so that a dry run tells what would happen.

use std::path::{Path, PathBuf};

use super::folder;
use super::history::Held;
use super::settings::Settings;
use super::stage::{Rejection, Stage};
use super::types::Hook;

/// Accepts up to `policies.limits.file_bytes`.
pub(super) fn size(settings: &Settings, bytes: u64) -> Result<(), Rejection> {
    let limit = settings.limits.file_bytes;
    match bytes > limit {
        false => Ok(()),
        true => Err(Stage::Verify.reject(format!(
            "has {bytes} bytes, policies.limits.file_bytes allows {limit}"
        ))),
    }
}

/// Leaves the hooks in which the file was not rolled back; it is rejected where there are none.
pub(super) fn unheld<'a>(
    hooks: &mut Vec<Hook>,
    held: impl Fn(Hook) -> Option<&'a Held>,
) -> Result<(), Rejection> {
    let first = hooks.iter().find_map(|&hook| Some((hook, held(hook)?)));
    hooks.retain(|&hook| held(hook).is_none());
    match first.filter(|_| hooks.is_empty()) {
        None => Ok(()),
        Some((hook, held)) => {
            let why = &held.reason;
            let reason = match held.config_digest {
                None => {
                    format!("was rolled back ({why}); put another file in its place or promote it")
                }
                Some(_) => format!(
                    "was rolled back with this config ({why}), and serves with the one before; change \
                     policies.{hook}.config, put another file in its place or promote it"
                ),
            };
            Err(Stage::Verify.reject(reason).about(Some(hook)))
        }
    }
}

/// Leaves the hooks that the operator's order gives to this file; it is rejected where there are none.
pub(super) fn ordered(
    settings: &Settings,
    path: &Path,
    hooks: &mut Vec<Hook>,
) -> Result<(), Rejection> {
    let own = folder::name(path);
    let other = |hook: Hook| settings.hook(hook).file.as_deref().filter(|it| *it != own);
    let first = hooks.iter().find_map(|&hook| Some((hook, other(hook)?)));
    hooks.retain(|&hook| other(hook).is_none());
    match first.filter(|_| hooks.is_empty()) {
        None => Ok(()),
        Some((hook, other)) => {
            let reason = format!(
                "serves the {hook} hook, which policies.{hook}.file gives to {other} alone: name \
                 {own} there, or remove it"
            );
            Err(Stage::Swap.reject(reason).about(Some(hook)))
        }
    }
}

/// Whether the file only runs beside what serves: by its name, or because a hook's settings say so.
pub(super) fn is_shadow(settings: &Settings, path: &Path) -> bool {
    let named = |hook: &Hook| settings.hook(*hook).shadow.as_deref() == Some(&*folder::name(path));
    folder::is_shadow(path) || Hook::ALL.iter().any(named)
}

/// A hook whose settings name this file as its shadow is one of those that it serves.
pub(super) fn shadowed(settings: &Settings, path: &Path, hooks: &[Hook]) -> Result<(), Rejection> {
    let own = folder::name(path);
    let named = |hook: &&Hook| settings.hook(**hook).shadow.as_deref() == Some(&*own);
    match Hook::ALL
        .iter()
        .filter(named)
        .find(|it| !hooks.contains(it))
    {
        None => Ok(()),
        Some(&hook) => {
            let theirs: Vec<_> = hooks.iter().map(|hook| hook.as_str()).collect();
            let reason = format!(
                "is named by policies.{hook}.shadow, and serves only {}",
                theirs.join(", ")
            );
            Err(Stage::Swap.reject(reason).about(Some(hook)))
        }
    }
}

/// Spares the compiler a file that no hook could take, whatever it serves.
pub(super) fn pinned_out(settings: &Settings, sha256: &str) -> Result<(), Rejection> {
    let takes = |hook: &Hook| match &settings.hook(*hook).pin {
        Some(pin) => pin.eq_ignore_ascii_case(sha256),
        None => true,
    };
    match Hook::ALL.iter().any(takes) {
        true => Ok(()),
        false => Err(Stage::Verify.reject(format!(
            "has sha256 {sha256}, and every hook is pinned to another file (policies.HOOK.pin)"
        ))),
    }
}

/// Accepts the one file that a hook is pinned to.
pub(super) fn pinned(settings: &Settings, sha256: &str, hooks: &[Hook]) -> Result<(), Rejection> {
    for &hook in hooks {
        if let Some(pin) = &settings.hook(hook).pin
            && !pin.eq_ignore_ascii_case(sha256)
        {
            let reason = format!("has sha256 {sha256}, policies.{hook}.pin allows only {pin}");
            return Err(Stage::Verify.reject(reason).about(Some(hook)));
        }
    }
    Ok(())
}

/// Files of golden cases that a candidate for this hook must pass.
pub(super) fn cases(settings: &Settings, hook: Hook, path: &Path) -> Vec<PathBuf> {
    let beside = folder::cases(path);
    let configured = settings.hook(hook).cases.clone();
    configured
        .into_iter()
        .chain(beside.exists().then_some(beside))
        .collect()
}

/// One file for one hook: which of two is meant cannot be guessed.
pub(super) fn rival(hook: Hook, other: &Path) -> Rejection {
    let rejection = Stage::Swap.reject(format!(
        "serves the {hook} hook, which {} serves already: remove one of the two, or name the one that \
         is meant in policies.{hook}.file",
        other.display()
    ));
    rejection.about(Some(hook))
}
