//! Bad input: one clear sentence each, and nothing breaks.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::server::{Server, command, demo_model, free_port};

#[tokio::test]
async fn each_mistake_in_a_request_is_named() {
    let server = Server::start(&["engine.kind=scripted", "server.max_body=4KiB"]).await;
    let long = "x".repeat(129);
    let cases = [
        ("/chat/stream", json!({}), 400, "message: missing field"),
        (
            "/chat/stream",
            json!({ "message": " " }),
            400,
            "message: found no text",
        ),
        (
            "/chat/stream",
            json!({ "message": 5 }),
            400,
            "message: found 5, expected a text",
        ),
        (
            "/chat/stream",
            json!({ "message": "x", "sesion": "y" }),
            400,
            "sesion: unknown field",
        ),
        (
            "/chat",
            json!({ "message": "x", "session_id": "a b" }),
            400,
            "session_id: contains ' '",
        ),
        (
            "/chat",
            json!({ "message": "x", "session_id": "" }),
            400,
            "session_id: 0 bytes long",
        ),
        (
            "/chat",
            json!({ "message": "x", "session_id": long }),
            400,
            "session_id: 129 bytes",
        ),
        (
            "/chat",
            json!({ "message": "x", "temperature": 9 }),
            400,
            "temperature: found 9",
        ),
        (
            "/chat",
            json!({ "message": "x", "temperature": "x" }),
            400,
            "temperature: found the text \"x\", expected a number",
        ),
        (
            "/chat",
            json!({ "message": "x", "max_tokens": 0 }),
            400,
            "max_tokens: found 0, expected a whole number, 1 or more",
        ),
        (
            "/chat",
            json!({ "message": "x", "max_tokens": -1 }),
            400,
            "max_tokens: found -1, expected a whole number, 1 or more",
        ),
        (
            "/chat",
            json!(null),
            400,
            "the body is wrong: found null, expected a JSON object",
        ),
        (
            "/v1/chat/completions",
            json!("x"),
            400,
            "the body is wrong: found the text \"x\", expected a JSON object",
        ),
        (
            "/chat",
            json!({ "message": "x", "max_tokens": 99999 }),
            400,
            "max_tokens: found 99999, expected at most 20",
        ),
        (
            "/v1/chat/completions",
            json!({ "max_completion_tokens": 99999, "messages": [{ "role": "user", "content": "x" }] }),
            400,
            "max_completion_tokens: found 99999, expected at most 20",
        ),
        // 3,900 bytes are 1,300 tokens of the scripted engine.
        (
            "/chat/stream",
            json!({ "message": "x".repeat(3900) }),
            400,
            "message: needs 13",
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "x".repeat(3900) }] }),
            400,
            "messages: needs 13",
        ),
        (
            "/chat",
            json!({ "message": "x", "seed": "often" }),
            400,
            "seed: found the text \"often\", expected a number, \"derived\" or \"random\"",
        ),
        (
            "/chat",
            json!({ "message": "x".repeat(5000) }),
            413,
            "server.max_body",
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [] }),
            400,
            "messages: found none",
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "boss", "content": "x" }] }),
            400,
            "messages[0].role: found \"boss\"",
        ),
        (
            "/v1/chat/completions",
            json!({ "n": 2, "messages": [{ "role": "user", "content": "x" }] }),
            400,
            "n: found 2",
        ),
        ("/chats", json!({ "message": "x" }), 404, "no such route"),
    ];
    let forms = [
        (
            json!({ "response_format": { "type": "json_object" } }),
            "response_format: found type \"json_object\", which is not supported yet",
        ),
        (
            json!({ "response_format": "json" }),
            "response_format: found no known type, which is not supported yet",
        ),
        (
            json!({ "tools": [{ "type": "function" }] }),
            "tools: found 1, expected none: tools are not supported yet",
        ),
        (
            json!({ "functions": [{}, {}] }),
            "functions: found 2, expected none: functions are not supported yet",
        ),
        (
            json!({ "logprobs": true }),
            "logprobs: found true, expected false: log probabilities are not supported yet",
        ),
    ];
    let forms = forms.map(|(mut body, words)| {
        body["messages"] = json!([{ "role": "user", "content": "x" }]);
        ("/v1/chat/completions", body, 400, words)
    });
    let cases = cases.into_iter().chain(forms);
    for (route, body, status, words) in cases {
        let response = server.post(route, body.clone()).await;
        assert_eq!(response.status(), status, "{route} {body}");
        let error: Value = response.json().await.unwrap();
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{body}: {message}");
        assert!(error["error"]["code"].is_string() && error["error"]["type"].is_string());
    }
    let raw = |media: &'static str, body: &'static str| {
        let url = format!("{}/chat", server.base);
        server
            .client
            .post(url)
            .header("content-type", media)
            .body(body)
            .send()
    };
    for (body, words) in [
        (
            "{\"message\":",
            "the body is not valid JSON: EOF while parsing a value at line 1 column 11",
        ),
        (
            "{\"message\": \"x\",}",
            "the body is not valid JSON: trailing comma at line 1 column 17",
        ),
        (
            "",
            "the body is not valid JSON: EOF while parsing a value at line 1 column 0",
        ),
    ] {
        let response = raw("application/json", body).await.unwrap();
        assert_eq!(response.status(), 400, "{body}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["message"], words, "{body}");
        assert_eq!(error["error"]["code"], "malformed_body", "{body}");
    }
    // Without a length beforehand, the limit is found while the body comes.
    let chunks = (0..50).map(|_| Ok::<_, std::io::Error>(" ".repeat(100)));
    let chunked = server
        .client
        .post(format!("{}/chat", server.base))
        .header("content-type", "application/json")
        .body(reqwest::Body::wrap_stream(futures::stream::iter(chunks)))
        .send()
        .await
        .unwrap();
    assert_eq!(chunked.status(), 413);
    let error: Value = chunked.json().await.unwrap();
    assert_eq!(error["error"]["code"], "body_too_large");
    // A path that is no text.
    for (method, url) in [
        ("GET", format!("{}/sessions/%FF", server.base)),
        ("DELETE", format!("{}/sessions/%FF", server.base)),
        (
            "POST",
            format!("{}/admin/policies/%FF/rollback", server.admin),
        ),
        (
            "POST",
            format!("{}/admin/policies/%FF/promote", server.admin),
        ),
    ] {
        let request = server.client.request(method.parse().unwrap(), &url);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 400, "{url}");
        let error: Value = response.json().await.unwrap();
        let message = error["error"]["message"].as_str().unwrap();
        let words = "is not UTF-8 behind its percent signs";
        assert!(
            message.starts_with("path: /") && message.ends_with(words),
            "{message}"
        );
        assert_eq!(error["error"]["param"], "path", "{url}");
    }
    assert_eq!(raw("text/plain", "{}").await.unwrap().status(), 415);
    let get = server
        .client
        .get(format!("{}/chat", server.base))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (
            get.status().as_u16(),
            get.headers()["allow"].to_str().unwrap()
        ),
        (405, "POST")
    );
    for (method, route, allowed) in [
        ("POST", "/admin/slots", "GET"),
        ("DELETE", "/metrics", "GET"),
        ("GET", "/admin/policies/trim/rollback", "POST"),
        ("PUT", "/admin/policies/reload", "POST"),
    ] {
        let url = format!("{}{route}", server.admin);
        let request = server.client.request(method.parse().unwrap(), url);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 405, "{route}");
        assert_eq!(response.headers()["allow"], allowed, "{route}");
        let error: Value = response.json().await.unwrap();
        let told = format!("method {method} is not allowed here; allowed: {allowed}");
        assert_eq!(error["error"]["message"], told, "{route}");
    }
    // What asks for nothing special is no mistake.
    let plain = json!({ "messages": [{ "role": "user", "content": "x" }], "tools": [],
        "functions": null, "response_format": { "type": "text" }, "logprobs": false });
    assert_eq!(
        server.post("/v1/chat/completions", plain).await.status(),
        200
    );
    server.chat("still there?", "after").await;
}

/// `stent serve` with these arguments, which must fail: its last line.
fn refusal(folder: &Path, arguments: &[&str]) -> String {
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
            "--set engine.kind=foo: engine.kind: found the text \"foo\", expected \"llama\" or \
             \"scripted\"",
        ),
        (
            &["--set", "engine.kind=openai"],
            "engine.kind: \"openai\" is not available in this version, expected \"llama\" or \
             \"scripted\"",
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
            "sessions.ttl: 3000years, expected more than 0s and at most 100 years",
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
