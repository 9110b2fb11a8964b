use super::*;

fn load(text: &str, env: &[(&str, &str)], sets: &[&str]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stent.toml");
    std::fs::write(&path, text).unwrap();
    let vars = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let mut overrides = Overrides::from_env(vars);
    for set in sets {
        overrides.set(set).map_err(|e| e.to_string())?;
    }
    Config::load(Some(&path), &overrides).map_err(|e| {
        e.to_string()
            .replace(&dir.path().display().to_string(), "DIR")
    })
}

#[test]
fn the_defaults_are_those_of_the_old_server() {
    let config = Config::default();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(config.server.admin.to_string(), "127.0.0.1:8001");
    assert_eq!(config.server.backlog, 2048);
    assert_eq!(config.server.keep_alive.as_secs(), 60);
    assert_eq!((config.engine.n_ctx, config.engine.n_batch), (8192, 2048));
    assert_eq!((config.engine.threads, config.engine.slots), (8, 4));
}

#[test]
fn later_layers_win() {
    let file = "[engine]\nslots = 2\nthreads = 3\nmax_tokens = 7";
    let env = [
        ("STENT_ENGINE_THREADS", "4"),
        ("STENT_ENGINE_MAX_TOKENS", "8"),
    ];
    let config = load(file, &env, &["engine.max_tokens=9"]).unwrap();
    assert_eq!(
        (
            config.engine.slots,
            config.engine.threads,
            config.engine.max_tokens
        ),
        (2, 4, 9)
    );
}

#[test]
fn a_typo_in_the_file_names_line_and_key() {
    let error = load("[engine]\nslots = 4\nn_ctxx = 1\n", &[], &[]).unwrap_err();
    assert!(
        error.starts_with("configuration file DIR/stent.toml: line 3: engine.n_ctxx"),
        "{error}"
    );
    assert!(error.contains("`n_ctx`"), "{error}");
    let error = load("[server]\nkeep_alive = \"soon\"\n", &[], &[]).unwrap_err();
    assert!(
        error.contains("line 2: server.keep_alive") && error.contains("\"60s\""),
        "{error}"
    );
}

#[test]
fn a_typo_in_a_variable_or_option_names_it() {
    let error = load("", &[("STENT_ENGINE_SLOTS", "many")], &[]).unwrap_err();
    assert!(
        error.starts_with("environment variable STENT_ENGINE_SLOTS: engine.slots"),
        "{error}"
    );
    let error = load("", &[], &["engine.slot=4"]).unwrap_err();
    assert!(
        error.starts_with("--set engine.slot=4: engine.slot: unknown field"),
        "{error}"
    );
    assert!(
        load("", &[], &["slots"])
            .unwrap_err()
            .contains("section.key=value")
    );
}

#[test]
fn deeper_tables_are_reached_from_everywhere() {
    let config = load(
        "[policies.trim.config]\nexchanges = 5\n",
        &[
            ("STENT_POLICIES__TRIM__FAIL", "closed"),
            ("STENT_SERVICE_HOST", "10.0.0.1"),
        ],
        &["policies.prompt.config.system=Be brief."],
    )
    .unwrap();
    let printed = config.to_toml().unwrap();
    for expected in [
        "exchanges = 5",
        "fail = \"closed\"",
        "system = \"Be brief.\"",
    ] {
        assert!(printed.contains(expected), "{expected} not in\n{printed}");
    }
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let config = load("[engine]\nslots = 3\n", &[], &["cache.max_bytes=1MiB"]).unwrap();
    let again = load(&config.to_toml().unwrap(), &[], &[]).unwrap();
    assert_eq!(config.to_toml().unwrap(), again.to_toml().unwrap());
}

#[test]
fn the_admin_address_is_never_the_public_one() {
    let error = load("[server]\nadmin = \"127.0.0.1:8000\"\n", &[], &[]).unwrap_err();
    assert!(error.starts_with("server.admin: 127.0.0.1:8000"), "{error}");
}
