//! Reads a file's imports and exports before anything of it is compiled. Runs in the compiling
//! child, because the file may be made to hurt whoever parses it.

use wasmparser::{Parser, Payload, Validator};

use super::bindings::v0_1::VERSION;
use super::stage::{Rejection, Stage};
use super::types::Hook;

/// Interfaces that a component may import.
const OFFERED: [&str; 3] = ["types", "request", "host"];
const PACKAGE: &str = "stent:policy/";

/// A component that keeps the contract by its names.
pub(super) struct Inspected {
    pub component: Vec<u8>,
    pub hooks: Vec<Hook>,
}

pub(super) fn inspect(bytes: &[u8]) -> Result<Inspected, Rejection> {
    let component = component(bytes)?;
    Validator::new().validate_all(&component).map_err(|e| {
        let cut_off = e.message().contains("unexpected end");
        let invalid = Stage::Contract.reject(format!("is not a valid component: {e}"));
        invalid.cut_off(cut_off)
    })?;
    let (imports, exports) = surface(&component)?;
    // Told of a file that is refused, too.
    let meant = exports
        .iter()
        .find_map(|export| hook_of(of_package(export)?.0));
    for import in &imports {
        check_import(import).map_err(|r| r.about(meant))?;
    }
    let hooks = hooks(&exports).map_err(|r| r.about(meant))?;
    Ok(Inspected { component, hooks })
}

/// The file as a component; a core module is wrapped.
fn component(bytes: &[u8]) -> Result<Vec<u8>, Rejection> {
    let truncated = |reason: &str| Stage::Contract.reject(reason).cut_off(true);
    match bytes {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(bytes.to_vec()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            let parsed: Result<Vec<_>, _> = Parser::new(0).parse_all(bytes).collect();
            if let Err(error) = parsed {
                return Err(truncated(&format!(
                    "is not a whole WebAssembly module: {error}"
                )));
            }
            let encoded = wit_component::ComponentEncoder::default()
                .validate(true)
                .module(bytes)
                .and_then(|mut encoder| encoder.encode());
            encoded.map_err(|e| Stage::Componentize.reject(unfit(bytes, &e)))
        }
        [] => Err(truncated(
            "is empty, expected a WebAssembly component or module",
        )),
        [0, b'a', b's', b'm', ..] => Err(truncated(
            "has an unknown binary version, expected a core module or a component",
        )),
        _ => Err(Stage::Contract.reject(format!(
            "is not WebAssembly: it begins with {}, expected 0061736d",
            hex::encode(&bytes[..bytes.len().min(4)])
        ))),
    }
}

/// Why a core module cannot become a component. Mostly it imports what nobody offers, and says so
/// in words of its own.
fn unfit(module: &[u8], error: &anyhow::Error) -> String {
    let package = PACKAGE.trim_end_matches('/');
    let foreign = core_imports(module).find(|(module, _)| {
        let offered = of_package(module).is_some_and(|(name, _)| OFFERED.contains(&name));
        // A module that owns a resource imports its making and dropping.
        !offered && !module.starts_with("[export]")
    });
    match foreign {
        Some((module, name)) => format!(
            "imports {name} of {module}, and a policy may import only {} of {package}@{VERSION}",
            OFFERED.join(", ")
        ),
        None => format!(
            "cannot become a component: {}, expected a module built for a world of \
             {package}@{VERSION}",
            error.root_cause()
        ),
    }
}

fn core_imports(module: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let sections = Parser::new(0).parse_all(module).filter_map(Result::ok);
    sections
        .filter_map(|payload| match payload {
            Payload::ImportSection(section) => Some(section.into_imports()),
            _ => None,
        })
        .flatten()
        .filter_map(Result::ok)
        .map(|import| (import.module, import.name))
}

/// Names of the outermost imports and exports.
fn surface(component: &[u8]) -> Result<(Vec<String>, Vec<String>), Rejection> {
    let unreadable = |e| Stage::Contract.reject(format!("is not a readable component: {e}"));
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0_usize);
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(unreadable)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(unreadable)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(unreadable)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

fn check_import(import: &str) -> Result<(), Rejection> {
    if let Some((interface, version)) = of_package(import)
        && OFFERED.contains(&interface)
    {
        return spoken(import, version);
    }
    Err(Stage::Contract.reject(format!(
        "imports {import}, and a policy may import only {} of {}@{VERSION}",
        OFFERED.join(", "),
        PACKAGE.trim_end_matches('/')
    )))
}

fn hooks(exports: &[String]) -> Result<Vec<Hook>, Rejection> {
    let mut found = Vec::new();
    let mut describes = false;
    for export in exports {
        let Some((interface, version)) = of_package(export) else {
            continue;
        };
        let hook = hook_of(interface);
        if hook.is_some() || interface == "policy" {
            spoken(export, version)?;
        }
        found.extend(hook);
        describes |= interface == "policy";
    }
    if !describes {
        return Err(Stage::Contract.reject(format!("does not export {PACKAGE}policy@{VERSION}")));
    }
    if found.is_empty() {
        return Err(Stage::Contract.reject(format!(
            "exports no hook, expected at least one of {} in {}@{VERSION}",
            Hook::ALL.map(Hook::interface).join(", "),
            PACKAGE.trim_end_matches('/')
        )));
    }
    found.sort_unstable();
    Ok(found)
}

fn hook_of(interface: &str) -> Option<Hook> {
    Hook::ALL
        .into_iter()
        .find(|hook| hook.interface() == interface)
}

fn of_package(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.split_once('@')
}

/// Patch versions are compatible with each other.
fn spoken(name: &str, version: &str) -> Result<(), Rejection> {
    let minor = |v: &str| v.rsplit_once('.').map(|(minor, _)| minor.to_owned());
    match minor(version) == minor(VERSION) {
        true => Ok(()),
        false => Err(Stage::Contract.reject(format!(
            "is written for {name}, this gateway speaks stent:policy@{VERSION}"
        ))),
    }
}
