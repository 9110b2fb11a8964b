//! What is wrong with a start.

use std::path::Path;

use crate::support::server::{command, demo_model, free_port};

/// `stent serve` with these arguments, which must fail: its last line.
pub fn refusal(folder: &Path, arguments: &[&str]) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    let output = command()
        .arg("serve")
        // Flags and --set come after the environment.
        .env("STENT_SERVER_LISTEN", format!("127.0.0.1:{}", free_port()))
        .env("STENT_SERVER_ADMIN", format!("127.0.0.1:{}", free_port()))
        .env("STENT_DATA_DIR", path("data"))
        .env("STENT_POLICIES_DIR", path("policies"))
        .env("STENT_ENGINE_N_CTX", "512")
        .env("STENT_ENGINE_MAX_TOKENS", "64")
        .args(arguments)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error.lines().last().unwrap_or_default().to_owned()
}

/// The whole line: each cause once, nothing of the program's inside.
#[test]
fn each_mistake_at_the_start_is_one_exact_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let model = std::fs::read(demo_model()).unwrap();
    let missing = folder.path().join("none.gguf").display().to_string();
    let short = file("short.gguf", &model[..model.len() / 2]);
    let header = file("header.gguf", &model[..100]);
    let wrong = file(
        "wrong.gguf",
        b"not a model at all, but long enough to be read",
    );
    let junk = file("junk.gguf", b"GGUFjunkjunkjunkjunkjunkjunk");
    let typo = file("typo.toml", b"[engine]\nslotz = 4\n");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let whole = model.len();
    let address_wanted = "expected an address such as 127.0.0.1:8000";
    let cases: &[(&[&str], &str)] = &[
        (
            &["--model", &missing],
            &format!(
                "engine.model: cannot open {missing}: No such file or directory (os error 2), \
                 expected a GGUF file"
            ),
        ),
        (
            &["--model", &short],
            &format!(
                "engine.model: {short} is truncated: {} bytes, expected at least {whole}",
                whole / 2
            ),
        ),
        (
            &["--model", &header],
            &format!(
                "engine.model: {header} is truncated: its 100 bytes end in the middle of its header"
            ),
        ),
        (
            &["--model", &wrong],
            &format!(
                "engine.model: {wrong} is not a GGUF file: it starts with \"not \", expected \"GGUF\""
            ),
        ),
        (
            &["--model", &junk],
            &format!("engine.model: {junk} is corrupt: no version number follows \"GGUF\""),
        ),
        (
            &[
                "--listen",
                &address,
                "--model",
                &demo_model().display().to_string(),
            ],
            &format!(
                "server.listen = {address}: cannot listen there: Address already in use (os error \
                 98) (another program has this port; choose one with --listen or --admin)"
            ),
        ),
        (
            &["--listen", "8000"],
            &format!("--listen 8000: server.listen: found the text \"8000\", {address_wanted}"),
        ),
        (
            &["--listen", "localhost:8000"],
            &format!(
                "--listen localhost:8000: server.listen: found the text \"localhost:8000\", \
                 {address_wanted}"
            ),
        ),
        (
            &["--set", "server.admin=127.0.0.1:80000"],
            &format!(
                "--set server.admin=127.0.0.1:80000: server.admin: found the text \
                 \"127.0.0.1:80000\", {address_wanted}"
            ),
        ),
        (
            &["--data", "/etc/passwd"],
            "data.dir (--data): /etc/passwd is a file, expected a folder",
        ),
        (
            &["--policies", "/etc/passwd"],
            "policies.dir (--policies): /etc/passwd is a file, expected a folder",
        ),
        (
            &["--set", "engine.kind=foo"],
            "--set engine.kind=foo: engine.kind: unknown variant `foo`, expected one of `llama`, \
             `scripted`, `openai`",
        ),
        (
            &["--set", "engine.kind=openai"],
            "engine.upstreams: empty, expected at least one URL such as \"http://host:8000/v1\" for \
             engine.kind = \"openai\"",
        ),
        (
            &["--set", "engine.slots=none"],
            "--set engine.slots=none: engine.slots: found the text \"none\", expected a whole \
             number, 0 or more",
        ),
        (
            &["--set", "engine.mlock=7"],
            "--set engine.mlock=7: engine.mlock: found 7, expected true or false",
        ),
    ];
    for (arguments, line) in cases {
        let told = refusal(folder.path(), arguments);
        assert_eq!(told, format!("stent: {line}"));
    }
    let told = refusal(folder.path(), &["--config", &typo]);
    for word in ["typo.toml", "line 2", "engine.slotz", "`slots`"] {
        assert!(told.contains(word), "{told}");
    }
}
