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
    let mut documented: BTreeMap<String, String> = BTreeMap::new();
    for row in rows {
        let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`'));
        let (key, default) = (cells.next().unwrap(), cells.next().unwrap());
        let before = documented.insert(key.into(), default.into());
        assert!(before.is_none(), "two rows of {key}");
    }
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

/// Whoever is called by an alert finds it in the runbook.
#[test]
fn every_alert_is_in_the_runbook() {
    let (rules, runbook) = (
        document("deploy/prometheus/rules.yml"),
        document("docs/runbook.md"),
    );
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let alerts: Vec<_> = alerts.collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(runbook.contains(&format!("`{alert}`")), "{alert}");
    }
}

/// Routes of the admin address that the documents tell people to ask.
#[test]
fn the_documents_name_admin_routes_that_exist() {
    let code = document("host/src/api/admin.rs");
    for name in [
        "README.md",
        "docs/runbook.md",
        "docs/telemetry.md",
        "docs/upstreams.md",
    ] {
        let text = document(name);
        for rest in text.split("/admin/").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_lowercase());
            let route = &rest[..end.unwrap_or(rest.len())];
            assert!(
                code.contains(&format!("\"/admin/{route}")),
                "{name}: /admin/{route}"
            );
        }
    }
}
