//! `STENT_*` variables: which of them are keys, which belong to somebody else, and which are
//! probably a slip.

use std::path::PathBuf;

use toml::{Table, Value};

use super::Config;
use super::layers::{Override, value};

/// Variables that are no configuration keys.
const OTHERS: [&str; 6] = [
    crate::session::KEYS_VARIABLE,
    crate::trace::LOG_VARIABLE,
    "STENT_CONFIG",
    "STENT_MODELS_MIRROR",
    "STENT_BENCH_KEY",
    "STENT_ADMIN_TOKEN",
];

/// Begins the variables of the project's own tests.
const TESTS: &str = "STENT_TEST_";

/// Keys from the variables, and a sentence for each variable that sets nothing.
///
/// `STENT_ENGINE_N_CTX=4096` is `engine.n_ctx`; deeper tables are written with two underscores,
/// `STENT_POLICIES__TRIM__FAIL=closed`.
pub(super) fn read(vars: impl Iterator<Item = (String, String)>) -> (Vec<Override>, Vec<String>) {
    let known = known();
    let (mut found, mut warnings) = (Vec::new(), Vec::new());
    for (name, text) in vars {
        let Some(key) = name.strip_prefix("STENT_") else {
            continue;
        };
        let others = OTHERS.contains(&name.as_str()) || name.starts_with(TESTS);
        if others || is_service_link(&name, &text) {
            continue;
        }
        match path(&key.to_ascii_lowercase()).filter(|path| known.contains_key(&path[0])) {
            Some(path) => found.push(Override {
                origin: format!("environment variable {name}"),
                path,
                value: value(&text),
                text,
            }),
            None => warnings.push(format!(
                "environment variable {name} sets nothing: {}",
                suggestion(key, &known)
            )),
        }
    }
    found.sort_by(|a, b| a.origin.cmp(&b.origin));
    warnings.sort();
    (found, warnings)
}

/// `engine_n_ctx` and `policies__trim__fail` as paths; `None` without a key behind the section.
fn path(key: &str) -> Option<Vec<String>> {
    let path: Vec<String> = if key.contains("__") {
        key.split("__").map(str::to_owned).collect()
    } else {
        let (section, key) = key.split_once('_')?;
        vec![section.to_owned(), key.to_owned()]
    };
    path.iter().all(|part| !part.is_empty()).then_some(path)
}

/// Kubernetes gives every pod variables for each service of its namespace, in Docker's form too: a
/// service called stent, or stent-engine, makes variables that look like ours.
fn is_service_link(name: &str, text: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let port = |rest: &str| {
        let mut parts = rest.split('_');
        let number = parts.next().is_some_and(|n| n.parse::<u16>().is_ok());
        let protocol = parts.next().is_some_and(|p| PROTOCOLS.contains(&p));
        let ending = matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"));
        number && protocol && ending && parts.next().is_none()
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name
            .match_indices("_PORT_")
            .any(|(at, found)| port(&name[at + found.len()..]))
        // STENT_PORT=9000 was written by a person, STENT_PORT=tcp://10.0.0.1:8000 was not.
        || name.ends_with("_PORT") && text.contains("://")
}

/// All keys: the printed ones, and those that have no default.
pub(super) fn known() -> Table {
    let mut config = Config::default();
    let policies = &mut config.policies;
    for hook in [
        &mut policies.guard,
        &mut policies.trim,
        &mut policies.prompt,
        &mut policies.cache,
        &mut policies.filter,
    ] {
        hook.bundled = Some(String::new());
        hook.pin = Some(String::new());
        hook.cases = Some(PathBuf::new());
    }
    Table::try_from(config).unwrap_or_default()
}

/// The known key that the variable is nearest to: by its whole name, or by its last part where
/// the section was forgotten.
fn suggestion(key: &str, defaults: &Table) -> String {
    let key = key.to_ascii_lowercase().replace("__", "_");
    let nearest = keys(defaults)
        .into_iter()
        .map(|known| {
            let last = known.last().map_or("", String::as_str);
            let whole = distance(&key, &known.join("_"));
            (whole.min(distance(&key, last) + 1), known)
        })
        .min();
    match nearest {
        Some((_, known)) => format!(
            "no such key; the nearest is {} ({})",
            variable(&known),
            known.join(".")
        ),
        None => "no such key".into(),
    }
}

/// The variable that sets the key.
pub(super) fn variable(path: &[String]) -> String {
    let between = if path.len() > 2 { "__" } else { "_" };
    format!("STENT_{}", path.join(between).to_ascii_uppercase())
}

/// The paths of all values.
pub(super) fn keys(table: &Table) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(inner) => found.extend(keys(inner).into_iter().map(|mut rest| {
                rest.insert(0, name.clone());
                rest
            })),
            _ => found.push(vec![name.clone()]),
        }
    }
    found
}

/// Levenshtein's: how many letters to change, add or leave out.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
