//! What the documents say, held against the code.

use std::collections::BTreeMap;
use std::path::Path;

use stent::config::Config;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `server.max_body` -> `1048576`, for every key; one hook stands for all.
fn keys(path: &str, value: &toml::Value, found: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table)
            if ![".config", ".attributes"]
                .iter()
                .any(|end| path.ends_with(end)) =>
        {
            for (key, value) in table {
                let hook = path == "policies"
                    && ["guard", "trim", "prompt", "cache", "filter"].contains(&key.as_str());
                let key = if hook { "HOOK" } else { key };
                let dot = if path.is_empty() { "" } else { "." };
                keys(&format!("{path}{dot}{key}"), value, found);
            }
        }
        toml::Value::Table(_) => drop(found.insert(path.into(), "{}".into())),
        other => drop(found.insert(path.into(), other.to_string())),
    }
}

#[test]
fn every_key_is_documented_with_its_default() {
    let mut expected = BTreeMap::new();
    let defaults: toml::Table = Config::default().to_toml().unwrap().parse().unwrap();
    keys("", &defaults.into(), &mut expected);
    let text = document("docs/configuration.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeMap<String, String> = rows
        .map(|row| {
            let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`'));
            (cells.next().unwrap().into(), cells.next().unwrap().into())
        })
        .collect();
    assert!(expected.len() > 60, "{expected:?}");
    for (key, default) in &expected {
        assert_eq!(documented.get(key), Some(default), "the row of {key}");
    }
    // What has no default is not in the printed form: those rows say so.
    for (key, default) in documented {
        let known = expected.contains_key(&key) || default == "unset";
        assert!(known, "no such key: {key} = {default}");
    }
}

/// The README's short table shows some of them; what it shows is right.
#[test]
fn the_readme_names_keys_that_exist() {
    let all = document("docs/configuration.md");
    let readme = document("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `"));
    let keys = rows.filter_map(|row| row.split_once(" |"));
    let sections = ["server.", "engine.", "policies.", "sessions.", "cache."];
    let mut seen = 0;
    for name in keys.flat_map(|(cell, _)| cell.split(", ")) {
        let name = name.trim_matches('`');
        if sections.iter().any(|section| name.starts_with(section)) {
            assert!(all.contains(&format!("| `{name}` |")), "README.md: {name}");
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} keys were found in README.md");
}
