//! Bad input: one clear sentence each, and nothing breaks.

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
            "message: invalid type: integer `5`",
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
            json!({ "message": "x", "max_tokens": 0 }),
            400,
            "max_tokens: found 0",
        ),
        (
            "/chat",
            json!({ "message": "x", "max_tokens": 99999 }),
            400,
            "message: needs",
        ),
        (
            "/chat",
            json!({ "message": "x", "seed": "often" }),
            400,
            "seed: invalid value",
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
    assert_eq!(
        raw("application/json", "{\"message\":")
            .await
            .unwrap()
            .status(),
        400
    );
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
    server.chat("still there?", "after").await;
}

#[test]
fn each_mistake_at_the_start_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let model = std::fs::read(demo_model()).unwrap();
    std::fs::write(path("short.gguf"), &model[..model.len() / 2]).unwrap();
    std::fs::write(
        path("wrong.gguf"),
        b"not a model at all, but long enough to be read",
    )
    .unwrap();
    std::fs::write(path("typo.toml"), "[engine]\nslotz = 4\n").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let listen = format!("server.listen={address}");
    let (missing, short, wrong, typo) = (
        path("none.gguf"),
        path("short.gguf"),
        path("wrong.gguf"),
        path("typo.toml"),
    );
    let cases: [(&[&str], &[&str]); 7] = [
        (&["--model", &missing], &["none.gguf"]),
        (&["--model", &short], &["short.gguf"]),
        (&["--model", &wrong], &["wrong.gguf"]),
        (
            &["--config", &typo],
            &["typo.toml", "line 2", "engine.slotz", "`slots`"],
        ),
        (
            &["--set", &listen],
            &["server.listen", &address, "--listen"],
        ),
        (&["--set", "engine.kind=openai"], &["engine.kind", "openai"]),
        (
            &["--set", "engine.slots=none"],
            &["--set engine.slots=none"],
        ),
    ];
    for (arguments, words) in cases {
        let output = command()
            .args(["serve", "--listen", &format!("127.0.0.1:{}", free_port())])
            .args(["--admin", &format!("127.0.0.1:{}", free_port())])
            .args(["--data", &path("data"), "--policies", &path("policies")])
            .args(["--set", "engine.n_ctx=512", "--set", "engine.max_tokens=64"])
            .args(arguments)
            .output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        let last = error.lines().last().unwrap_or_default();
        assert!(last.starts_with("stent: "), "{arguments:?}: {error}");
        for word in words {
            assert!(
                last.contains(word),
                "{arguments:?} should tell {word}: {last}"
            );
        }
        assert!(!error.contains("panicked"), "{error}");
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
        "wasmtime 48.",
    ] {
        assert!(text.contains(part), "{text}");
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
