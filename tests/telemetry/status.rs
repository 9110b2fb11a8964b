//! `stent status` and `stent top` against a real process.

use std::io::{Read, Write};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use stent::access::Digest;

use crate::support::server::{Server, command};

fn status(server: &Server, more: &[&str]) -> Output {
    let mut command = command();
    command
        .args(["status", "--admin", &server.admin])
        .args(more);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_pm2_told() {
    let server = Server::start(&["engine.kind=scripted", "engine.script.token=100ms"]).await;
    let body = json!({ "message": "hello", "session_id": "one", "seed": "random" });
    let running = server.post("/chat/stream", body).await;
    server
        .until("it speaks", async |s| {
            s.admin("/admin/slots").await["slots"][0]["output_tokens"] != 0
        })
        .await;
    let shown = status(&server, &["--json"]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    let told: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(told["ready"], true);
    assert_eq!(told["model"], "scripted");
    assert_eq!(told["slots"].as_array().unwrap().len(), 4);
    assert_eq!(told["queue"], json!({ "waiting": 0, "limit": 64 }));
    assert_eq!(told["watch"]["memory"]["level"], "good");
    assert!(
        told["watch"]["memory"]["value"].as_f64() > Some(1e6),
        "{told}"
    );
    assert_eq!(
        told["watch"]["restarts"],
        json!({ "value": 0.0, "level": "good" })
    );
    assert!(
        told["rates"]["cpu"].is_f64() && told["rates"]["generated"].is_f64(),
        "{told}"
    );
    assert_eq!(told["now"]["policy_generation"], 1);
    assert_eq!(told["policies"].as_array().unwrap().len(), 5, "{told}");

    let shown = text(&status(&server, &[]).stdout);
    for part in [
        "stent 0.1.0  scripted  pid",
        "ready",
        "memory",
        "of",
        "first words",
        "restarts",
        "queue",
        "SLOT",
        "decode",
        "HOOK",
        "prompt-mistral",
        "generation 1, 1 in use",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains('\x1b'), "no colour into a pipe: {shown}");
    drop(running);
}

/// The admin routes may ask for a token, which the environment holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_a_token_shows_itself_to_who_has_it() {
    let token = format!("server.admin_token={}", Digest::of("secret"));
    let server = Server::start(&["engine.kind=scripted", &token]).await;
    let run = |what: &str, token: Option<&str>| {
        let mut command = command();
        command.args([what, "--admin", &server.admin]);
        if let Some(token) = token {
            command.env("STENT_ADMIN_TOKEN", token);
        }
        command.output().unwrap()
    };
    let shown = run("status", Some("secret"));
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    assert!(text(&shown.stdout).contains("prompt-mistral"));
    for (what, token, said) in [
        ("status", None, "needs the admin token (server.admin_token)"),
        ("status", Some("guess"), "the admin token is wrong"),
        ("top", None, "needs the admin token (server.admin_token)"),
        // It was let in: what is missing is a terminal.
        ("top", Some("secret"), "needs a terminal"),
    ] {
        let refused = run(what, token);
        assert_eq!(refused.status.code(), Some(1), "{what}");
        let told = text(&refused.stderr);
        assert!(told.contains(said) && told.lines().count() == 1, "{told}");
        assert!(
            !told.contains("secret") && !told.contains("guess"),
            "{told}"
        );
    }
    // Alive and ready are told to everybody.
    let health = command()
        .args(["health", "--ready", "--listen"])
        .arg(server.base.trim_start_matches("http://"))
        .output()
        .unwrap();
    assert!(health.status.success(), "{}", text(&health.stderr));
}

#[test]
fn nobody_there_is_one_sentence() {
    let port = crate::support::server::free_port();
    for what in ["status", "top"] {
        let output = command()
            .args([what, "--admin", &format!("127.0.0.1:{port}")])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let told = text(&output.stderr);
        let expected = format!("stent: no gateway answers at 127.0.0.1:{port}: start one with");
        assert!(told.starts_with(&expected), "{told}");
        assert_eq!(told.lines().count(), 1);
    }
}

/// What a service manager does when a gateway dies again and again.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_restarts_are_critical() {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let starts: Vec<_> = (1..=3)
        .map(|n| json!({ "at": now - 100 * n }))
        .rev()
        .collect();
    let server = Server::launch(&["engine.kind=scripted"], |policies| {
        let data = policies.with_file_name("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("starts.json"), json!(starts).to_string()).unwrap();
    });
    server
        .until("it is ready", async |s| {
            let asked = s.client.get(format!("{}/ready", s.base)).send().await;
            asked.is_ok_and(|response| response.status() == 200)
        })
        .await;
    assert_eq!(server.gauge("stent_restarts").await, 3);
    let shown = status(&server, &["--json"]);
    assert_eq!(shown.status.code(), Some(2));
    let told: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(told["restarts"], json!({ "day": 3, "crashes": 3 }));
    assert_eq!(told["watch"]["restarts"]["level"], "critical");
    assert_eq!(told["level"], "critical");
}

/// In a terminal of its own, which `script` gives it.
#[tokio::test(flavor = "multi_thread")]
async fn top_draws_until_q() {
    let server = Server::start(&["engine.kind=scripted"]).await;
    let stent = env!("CARGO_BIN_EXE_stent");
    let top = format!("{stent} top --interval 0.2 --admin {}", server.admin);
    let mut shown = std::process::Command::new("script")
        .args(["-qefc", &top, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keys, mut screen) = (shown.stdin.take().unwrap(), shown.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let (mut all, mut part, deadline) = (
            Vec::new(),
            [0; 4096],
            Instant::now() + Duration::from_secs(30),
        );
        let mut asked = false;
        while let Ok(read @ 1..) = screen.read(&mut part) {
            all.extend_from_slice(&part[..read]);
            assert!(Instant::now() < deadline, "{}", text(&all));
            // Drawn twice: it is live.
            if !asked && text(&all).matches("SLOT").count() >= 2 {
                keys.write_all(b"q").unwrap();
                asked = true;
            }
        }
        text(&all)
    });
    let all = tokio::task::spawn_blocking(|| reader.join().unwrap())
        .await
        .unwrap();
    assert_eq!(shown.wait().unwrap().code(), Some(0), "{all}");
    assert!(
        all.contains("\x1b[?1049h") && all.trim_end().ends_with("\x1b[?1049l"),
        "{all:?}"
    );
    assert!(
        all.contains("first words") && all.contains("prompt-mistral"),
        "{all}"
    );
    assert!(all.contains("\x1b[32mready"), "in colour: {all:?}");

    let piped = command()
        .args(["top", "--admin", &server.admin])
        .output()
        .unwrap();
    assert_eq!(piped.status.code(), Some(1));
    assert!(
        text(&piped.stderr).contains("stent status does not"),
        "{}",
        text(&piped.stderr)
    );
}
