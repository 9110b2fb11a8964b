//! The shape of the code, as README.md states it: who may use whom, and which crate stays where.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A module of the host and the modules that it may use. Stages of a request do not use each
/// other: `chat` is where they meet.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        "config",
        &[
            "cache", "engine", "http", "policy", "session", "trace", "types",
        ],
    ),
    ("http", &["access", "error", "tls", "types"]),
    ("access", &["types"]),
    (
        "api",
        &[
            "access", "chat", "error", "metrics", "policy", "starts", "stream", "trace", "types",
        ],
    ),
    (
        "chat",
        &[
            "access",
            "admission",
            "cache",
            "engine",
            "error",
            "metrics",
            "policy",
            "relay",
            "session",
            "stream",
            "trace",
            "types",
        ],
    ),
    ("admission", &["error", "types"]),
    ("cache", &["redis", "seal", "types"]),
    // The worker's spans end on its own thread, where only the engine knows when.
    ("engine", &["tls", "trace", "types"]),
    ("policy", &["trace", "types"]),
    ("session", &["redis", "seal", "types"]),
    ("stream", &["error", "types"]),
    ("error", &["access", "engine", "policy", "session"]),
    ("metrics", &["trace"]),
    ("models", &["tls"]),
    ("redis", &["types"]),
    ("relay", &["redis", "seal", "types"]),
    ("seal", &[]),
    ("tls", &[]),
    ("trace", &["tls", "types"]),
    ("types", &[]),
    (
        "policy_cli",
        &["config", "engine", "policy", "tls", "types"],
    ),
    ("bench", &["engine", "tls", "types"]),
    ("starts", &[]),
    // Both are commands that ask a running gateway.
    ("status", &["policy_cli"]),
    (
        "doctor",
        &[
            "cache", "config", "engine", "http", "models", "policy", "redis", "session", "tls",
            "types",
        ],
    ),
];

/// A crate and the only modules that know it.
const KNOWN_IN: &[(&str, &[&str])] = &[
    ("wasmtime", &["policy"]),
    ("llama_cpp_2", &["engine"]),
    ("llama_cpp_sys_2", &["engine"]),
    ("redb", &["session"]),
    ("axum", &["http", "api", "stream", "error"]),
    (
        "clap",
        &[
            "main",
            "sessions_cli",
            "models",
            "bench",
            "policy_cli",
            "status",
        ],
    ),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file with the name of its top module.
fn files() -> Vec<(String, PathBuf)> {
    let (mut files, mut folders) = (Vec::new(), vec![source()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inside = path.strip_prefix(source()).unwrap().with_extension("");
            let top = inside.components().next().unwrap();
            files.push((top.as_os_str().to_string_lossy().into_owned(), path));
        }
    }
    files
}

/// Source without comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules behind `crate::a` and `crate::{a, b::c}`.
fn used(code: &str) -> BTreeSet<String> {
    let word = |text: &str| -> String {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
        text[..end.unwrap_or(text.len())].to_owned()
    };
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            used.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut at_start = true;
        for (at, c) in list.char_indices() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => at_start = true,
                c if at_start && c.is_alphabetic() => {
                    used.insert(word(&list[at..]));
                    at_start = false;
                }
                _ => {}
            }
        }
    }
    used
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let mut wrong = Vec::new();
    for (module, path) in files() {
        // Those that put everything together.
        if ["main", "serve", "sessions_cli", "lib"].contains(&module.as_str()) {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!(
                "{}: {module} is not in the list above",
                path.display()
            ));
            continue;
        };
        for other in used(&code(&path)) {
            if other != module && !allowed.contains(&other.as_str()) {
                wrong.push(format!("{}: {module} may not use {other}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_big_crate_is_known_in_one_place() {
    let mut wrong = Vec::new();
    for (module, path) in files() {
        let code = code(&path);
        for (name, modules) in KNOWN_IN {
            let knows = code.contains(&format!("{name}::")) || code.contains(&format!("{name};"));
            if knows && !modules.contains(&module.as_str()) {
                wrong.push(format!(
                    "{}: {name} belongs into {modules:?}",
                    path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_reader_of_uses_sees_every_form() {
    let code = "use crate::{a, b::{c, d}, e as f};\nuse crate::g::h; let x = crate::i();";
    let expected = ["a", "b", "e", "g", "i"].map(str::to_owned);
    assert_eq!(used(code), BTreeSet::from(expected));
}
