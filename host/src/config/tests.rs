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

#[test]
fn a_password_in_an_address_is_never_repeated() {
    let login = "redis://me:hunter2@host/no-number";
    for wrong in [
        load("", &[], &[&format!("sessions.store={login}")]),
        load("", &[], &[&format!("cache.store={login}")]),
        load("", &[], &[&format!("sessions.stores={login}")]),
        load("", &[("STENT_SESSIONS_STORE", login)], &[]),
        load(&format!("[sessions]\nstore = \"{login}\""), &[], &[]),
        load(&format!("[sessions]\nstore = \"{login}"), &[], &[]),
        load("", &[], &[&format!("telemetry.trace_url={login}")]),
        load(
            "",
            &[],
            &[
                "engine.kind=openai",
                "engine.upstreams=[\"http://me:hunter2@host/v1\"]",
            ],
        ),
    ] {
        let wrong = wrong.unwrap_err();
        assert!(!wrong.contains("hunter2"), "{wrong}");
    }
}

#[test]
fn what_is_printed_holds_no_password() {
    let address = "http://me:hunter2@host:4317";
    let sets = [
        format!("engine.upstreams=[\"{address}/v1\", {{ url = \"{address}/v1\", weight = 2 }}]"),
        format!("telemetry.otlp={address}"),
        format!("telemetry.trace_url={address}/{{trace_id}}"),
        "sessions.store=redis://me:hunter2@host/0".to_owned(),
    ];
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let config = load("", &[], &sets).unwrap();
    let printed = config.to_toml().unwrap();
    assert!(!printed.contains("hunter2"), "{printed}");
    assert_eq!(printed.matches("…@host:4317").count(), 4, "{printed}");
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
}

/// Every key that `--print-config` shows, set to something else, comes back as it was set.
#[test]
fn each_printed_key_can_be_set_through_the_environment() {
    let defaults = environment::known();
    let keys = environment::keys(&defaults);
    for optional in ["pin", "bundled", "cases"] {
        let of_hook = keys
            .iter()
            .filter(|path| path.ends_with(&[optional.into()]));
        assert_eq!(of_hook.count(), 5, "{optional}");
    }
    assert!(keys.len() > 75, "{keys:?}");
    for path in keys {
        let at = |table: &toml::Table| {
            let start = toml::Value::Table(table.clone());
            path.iter().fold(start, |value, name| value[name].clone())
        };
        let key = path.join(".");
        let other = match (key.as_str(), at(&defaults)) {
            ("engine.gpu_layers", _) => {
                let wrong = load("", &[("STENT_ENGINE_GPU_LAYERS", "7")], &[]).unwrap_err();
                assert!(wrong.starts_with("engine.gpu_layers: 7"), "{wrong}");
                continue;
            }
            // Without Redis there is only one answer.
            ("sessions.on_store_failure", _) => {
                let set = ("STENT_SESSIONS_ON_STORE_FAILURE", "local");
                let wrong = load("", &[set], &[]).unwrap_err();
                assert!(
                    wrong.starts_with("sessions.on_store_failure: \"local\""),
                    "{wrong}"
                );
                let redis = ("STENT_SESSIONS_STORE", "redis://127.0.0.1");
                load("", &[set, redis], &[]).unwrap();
                continue;
            }
            ("sessions.store", _) => "memory".into(),
            ("sessions.on_busy", _) => "refuse".into(),
            ("server.listen" | "server.admin", _) => "127.0.0.1:4711".to_owned(),
            ("engine.kind", _) => "scripted".into(),
            ("engine.kernels", _) => "ggml".into(),
            ("engine.upstream.api", _) => "completions".into(),
            ("engine.upstreams", _) => "[{ url = \"http://a/v1\", weight = 2 }]".into(),
            ("engine.seed", _) => "random".into(),
            ("engine.step_budget", _) => "250ms".into(),
            ("engine.kv_cells", _) => "99999".into(),
            ("policies.limits.memory", _) => "32MiB".into(),
            ("cache.store", _) => "off".into(),
            ("cache.timeout", _) => "70ms".into(),
            ("telemetry.protocol" | "log.format", _) => match key.as_str() {
                "log.format" => "json".into(),
                _ => "http".into(),
            },
            ("telemetry.otlp", _) => "http://127.0.0.1:4317".into(),
            ("telemetry.sample", _) => "0.5".into(),
            ("telemetry.trace_url", _) => "http://localhost:16686/trace/{trace_id}".into(),
            ("log.filter", _) => "debug".into(),
            (key, _) if key.ends_with(".pin") => format!("1e{}", "0".repeat(62)),
            (key, _) if key.ends_with(".bundled") => "none".into(),
            (key, _) if key.ends_with(".cases") => "1.50".into(),
            (key, _) if key.ends_with(".fail") => "closed".into(),
            (key, _) if key.ends_with(".scope") => "tenant".into(),
            ("server.keys", _) => {
                format!("[{{ tenant = \"a\", sha256 = \"{}\" }}]", "a".repeat(64))
            }
            ("server.admin_token", _) => "a".repeat(64),
            // One without the other is refused.
            (
                "server.tls_cert"
                | "server.tls_key"
                | "server.admin_tls_cert"
                | "server.admin_tls_key",
                _,
            ) => continue,
            ("server.cors_origins", _) => "[\"http://localhost:3000\"]".into(),
            ("policies.trusted_keys", _) => format!("[\"{}\"]", "a".repeat(64)),
            (_, toml::Value::Boolean(on)) => (!on).to_string(),
            (_, toml::Value::Integer(n)) => (n + 1).to_string(),
            (_, toml::Value::Float(x)) => (x / 2.0).to_string(),
            (_, toml::Value::String(text)) => match text.as_str() {
                time if humantime::parse_duration(time).is_ok() => "7s".into(),
                size if size.ends_with("iB") => "7MiB".into(),
                _ => "elsewhere".into(),
            },
            (key, default) => panic!("{key} = {default}: no other value is known"),
        };
        let name = environment::variable(&path);
        let config = load("", &[(name.as_str(), other.as_str())], &[]).unwrap();
        let printed = at(&toml::Table::try_from(config).unwrap());
        let wanted = match path.last().map(String::as_str) {
            // What reads as a number stays the text that it is.
            Some("pin" | "cases") => toml::Value::String(other.clone()),
            _ => super::layers::value(&other),
        };
        assert_eq!(printed.to_string(), wanted.to_string(), "{name}={other}");
        assert_ne!(printed, at(&defaults), "{name}");
    }
}

#[test]
fn a_variable_that_sets_nothing_is_told_with_the_nearest_key() {
    let warnings = |vars: &[(&str, &str)]| {
        let vars = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Overrides::from_env(vars).warnings().to_vec()
    };
    for (name, nearest) in [
        ("STENT_ENGIN_SLOTS", "STENT_ENGINE_SLOTS (engine.slots)"),
        ("STENT_SLOTS", "STENT_ENGINE_SLOTS (engine.slots)"),
        ("STENT_LOGFILTER", "STENT_LOG_FILTER (log.filter)"),
        ("STENT_PORT", ""),
        ("STENT_ENGINE", ""),
        (
            "STENT_POLICY__TRIM__FAIL",
            "STENT_POLICIES__TRIM__FAIL (policies.trim.fail)",
        ),
    ] {
        let [warning]: [String; 1] = warnings(&[(name, "2")]).try_into().unwrap();
        let start =
            format!("environment variable {name} sets nothing: no such key; the nearest is");
        assert!(warning.starts_with(&start), "{warning}");
        assert!(warning.ends_with(nearest), "{warning}");
    }
    let kubernetes = [
        ("STENT_SERVICE_HOST", "10.0.0.1"),
        ("STENT_SERVICE_PORT", "8000"),
        ("STENT_SERVICE_PORT_HTTP", "8000"),
        ("STENT_PORT", "tcp://10.0.0.1:8000"),
        ("STENT_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("STENT_PORT_8000_TCP_PROTO", "tcp"),
        ("STENT_PORT_8000_TCP_PORT", "8000"),
        ("STENT_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("STENT_ENGINE_SERVICE_HOST", "10.0.0.2"),
        ("STENT_ENGINE_PORT", "tcp://10.0.0.2:80"),
        ("STENT_ENGINE_PORT_80_TCP_ADDR", "10.0.0.2"),
        ("STENT_LOG", "debug"),
        ("STENT_CONFIG", "x.toml"),
    ];
    assert_eq!(warnings(&kubernetes), [""; 0]);
    load("", &kubernetes, &[]).unwrap();
}

/// Files of `tests/corpus/config`, whole and damaged: each is read or refused with a sentence that
/// names the file, and no refusal repeats what may be a secret.
mod hostile {
    use proptest::prelude::*;

    use super::*;

    fn corpus() -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/config");
        let files = std::fs::read_dir(folder).unwrap();
        files
            .map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .collect()
    }

    fn read(bytes: &[u8]) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let read = Config::load(Some(file.path()), &Overrides::default());
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn each_file_of_the_corpus_is_read_or_refused() {
        let all: Vec<_> = corpus().iter().map(|bytes| read(bytes)).collect();
        assert!(all.len() > 5 && all.iter().any(Result::is_ok), "{all:?}");
        for error in all.into_iter().filter_map(Result::err) {
            assert!(
                !error.is_empty() && !error.contains("stent_secret"),
                "{error}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_damaged_file_is_read_or_refused(
            which: prop::sample::Index,
            cut: prop::sample::Index,
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let corpus = corpus();
            let mut bytes = which.get(&corpus).clone();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1).max(1));
            if let Err(error) = read(&bytes) {
                prop_assert!(!error.is_empty());
            }
        }
    }
}
