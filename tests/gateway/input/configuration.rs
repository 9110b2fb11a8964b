//! What is wrong with a configuration, whatever it is asked for.

use super::starting::refusal;
use crate::support::server::{command, demo_model, free_port};

/// What the start would refuse, --check-config refuses, in the same words.
#[test]
fn a_configuration_that_cannot_start_is_not_called_good() {
    let folder = tempfile::tempdir().unwrap();
    let model = demo_model().display().to_string();
    for (set, line) in [
        (
            "server.cors_origins=[\"localhost:3000\"]",
            "server.cors_origins: \"localhost:3000\" is no origin, expected one such as \
             \"http://localhost:3000\"",
        ),
        (
            "log.filter=stent=loud",
            "log.filter: \"stent=loud\" is not a log filter, expected a level or directives such as \
             \"info,stent::policy=debug\"",
        ),
        (
            "policies.dir=",
            "policies.dir (--policies): found no path, expected a folder",
        ),
        (
            "policies.trim.bundled=trimm",
            "policies.trim.bundled: \"trimm\" is not a bundled policy, expected none or one of ",
        ),
        (
            "policies.trim.config.no_such_key=1",
            "policies.trim.config.no_such_key: unknown key, expected one of \"exchanges\", \
             \"slack\" (the bundled policy trim-exchanges)",
        ),
        (
            "policies.guard.bundled=filter-redact",
            "policies.guard.bundled: it does not serve the guard hook (the bundled policy \
             filter-redact)",
        ),
        (
            "server.max_body=0",
            "server.max_body: 0, expected a size such as \"1MiB\"",
        ),
        (
            "server.keep_alive=0s",
            "server.keep_alive: 0s, expected a duration such as \"60s\"",
        ),
        (
            "sessions.ttl=3000years",
            "sessions.ttl: 3000years, expected at least 1ms and at most 100 years",
        ),
        (
            "engine.n_ctx=2000000000",
            "engine.n_ctx: 2000000000 for each of 4 slots, expected at most 2147483647 in all",
        ),
        (
            "engine.kv_cells=3000000000",
            "engine.kv_cells: 3000000000, expected at most 2147483647",
        ),
        (
            "engine.n_ctx=500000000",
            "engine.n_ctx: 500000000 for 4 slots: the KV cache of 2000000000 cells would take ",
        ),
    ] {
        for check in [["--check-config"].as_slice(), &[]] {
            let given = ["--model", model.as_str(), "--set", set];
            let arguments = [given.as_slice(), check].concat();
            let told = refusal(folder.path(), &arguments);
            assert!(told.starts_with(&format!("stent: {line}")), "{set}: {told}");
        }
    }
}

#[test]
fn the_configuration_can_be_checked_and_printed() {
    let run = |arguments: &[&str]| command().arg("serve").args(arguments).output().unwrap();
    assert!(run(&["--check-config"]).status.success());
    let printed = run(&["--print-config", "--set", "engine.slots=3"]);
    assert!(String::from_utf8_lossy(&printed.stdout).contains("slots = 3"));
    let version = command().arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    for part in [
        "stent 0.1.0",
        "commit ",
        "llama-cpp-2 0.1.160",
        "llama.cpp ",
        "wasmtime 48.",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // The commit that was built; a tarball has none.
    let git = std::process::Command::new("git")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["rev-parse", "--short=12", "HEAD"])
        .output();
    if let Some(git) = git.ok().filter(|git| git.status.success()) {
        let commit = String::from_utf8_lossy(&git.stdout).trim().to_owned();
        assert!(text.contains(&format!("commit {commit},")), "{text}");
    }
}

/// A door without a lock is warned of, wherever somebody looks.
#[test]
fn an_admin_address_that_others_can_reach_is_told() {
    let said = |address: &str, arguments: &[&str]| {
        let output = command()
            .args(["serve", "--set", "log.format=human", "--admin", address])
            .args(["--listen", &format!("127.0.0.1:{}", free_port())])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let open = format!("0.0.0.0:{}", free_port());
    for arguments in [["--check-config"].as_slice(), &["--model", "/nowhere.gguf"]] {
        let warning = format!("server.admin: {open} can be reached from other machines");
        let said_open = said(&open, arguments);
        assert!(said_open.contains(&warning), "{arguments:?}: {said_open}");
        let said_closed = said(&format!("[::1]:{}", free_port()), arguments);
        assert!(!said_closed.contains("server.admin"), "{said_closed}");
    }
}

/// In the log when it serves, on the terminal when it only checks.
#[test]
fn a_variable_that_sets_nothing_is_told() {
    let said = |arguments: &[&str]| {
        let output = command()
            .args(["serve", "--set", "log.format=human"])
            .args(["--listen", &format!("127.0.0.1:{}", free_port())])
            .args(["--admin", &format!("127.0.0.1:{}", free_port())])
            .args(arguments)
            .env("STENT_ENGIN_SLOTS", "2")
            .env("STENT_PORT_8000_TCP", "tcp://10.0.0.1:8000")
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for arguments in [["--check-config"].as_slice(), &["--model", "/nowhere.gguf"]] {
        let said = said(arguments);
        let warning = "environment variable STENT_ENGIN_SLOTS sets nothing: no such key; \
                       the nearest is STENT_ENGINE_SLOTS (engine.slots)";
        assert!(said.contains(warning), "{arguments:?}: {said}");
        assert!(!said.contains("STENT_PORT"), "{said}");
    }
}
