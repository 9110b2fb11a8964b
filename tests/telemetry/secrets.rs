//! A person's words go through a real gateway and turn up in nothing that an operator keeps: not in
//! spans, log, metrics or admin pages; with content capture on, in two attributes of spans alone.

mod elsewhere;

use std::sync::Arc;

use serde_json::{Value, json};
use stent::trace::Protocol;

use crate::policy::guest::{Guest, TRAP, words};
use crate::support::otlp::{Received, Receiver};
use crate::support::server::Server;

const ASKED: &str = "canary-asked-51c9";
const SAID: &str = "canary-said-8d02";
const SESSION: &str = "canary-session-77ab";
const ALL: [&str; 3] = [ASKED, SAID, SESSION];

/// Everything that an operator can read, by where it was found.
async fn kept(server: &Server, spans: &[Received]) -> Vec<(String, String)> {
    let mut all: Vec<_> = spans
        .iter()
        .map(|span| (format!("span {}", span.name), span.raw.clone()))
        .collect();
    all.push(("log".into(), server.log()));
    let hooks = ["guard", "trim", "prompt", "cache", "filter"];
    let histories = hooks.map(|hook| format!("/admin/policies/{hook}/history"));
    let fixed = [
        "/metrics",
        "/admin/policies",
        "/admin/alarms",
        "/admin/audit",
        "/admin/slots",
        "/admin/status",
        "/admin/log",
        "/admin/traces",
        "/console",
    ];
    for page in histories.iter().map(String::as_str).chain(fixed) {
        let response = server
            .client
            .get(format!("{}{page}", server.admin))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{page}");
        all.push((page.into(), response.text().await.unwrap()));
    }
    // What the script says is the operator's own.
    let mut config = server.admin("/admin/config").await;
    config["config"]["engine"]["script"]["text"].take();
    all.push(("/admin/config".into(), config.to_string()));
    let ready = server.client.get(format!("{}/ready", server.base)).send();
    all.push(("/ready".into(), ready.await.unwrap().text().await.unwrap()));
    all
}

fn holding<'a>(kept: &'a [(String, String)], canary: &str) -> Vec<&'a str> {
    let found = kept.iter().filter(|(_, text)| text.contains(canary));
    found.map(|(place, _)| place.as_str()).collect()
}

/// Asks in every way that ends differently, the slots' page being looked at in the middle of one.
async fn ask_all(server: &Server) -> (Vec<String>, Value) {
    let mut traces = Vec::new();
    let message = format!("Tell me of {ASKED}");
    let bodies = [
        (
            "/chat",
            json!({ "message": message, "session_id": SESSION }),
        ),
        (
            "/chat",
            json!({ "message": message, "session_id": SESSION }),
        ),
        (
            "/chat/stream",
            json!({ "message": message, "session_id": SESSION }),
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": message }], "session_id": SESSION }),
        ),
        // Refused: the words are in what is wrong.
        (
            "/chat",
            json!({ "message": message, "session_id": SESSION, "temperature": 9 }),
        ),
        ("/chat", json!({ "message": message, ASKED: 1 })),
        (
            "/chat",
            json!({ "message": message, "session_id": format!("{SESSION} {ASKED}") }),
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": ASKED, "content": message }] }),
        ),
        (
            "/chat",
            json!({ "message": format!("{ASKED} ").repeat(4000), "session_id": SESSION }),
        ),
    ];
    for (route, body) in bodies {
        let response = server.post(route, body).await;
        let trace = response.headers()["traceresponse"].to_str().unwrap();
        traces.push(trace.split('-').nth(1).unwrap().to_owned());
        drop(response.bytes().await);
    }
    let running = server
        .post(
            "/chat/stream",
            json!({ "message": message, "session_id": SESSION, "seed": "random" }),
        )
        .await;
    server
        .until("it speaks", async |s| {
            s.admin("/admin/slots").await["slots"][0]["output_tokens"] != 0
        })
        .await;
    let slots = server.admin("/admin/slots").await;
    drop(running);
    // Names of people's things in paths.
    for url in [
        format!("/sessions/{SESSION}"),
        format!("/{ASKED}"),
        format!("/v1/models/{ASKED}"),
    ] {
        let response = server
            .client
            .get(format!("{}{url}", server.base))
            .send()
            .await
            .unwrap();
        drop(response.bytes().await);
    }
    // A word of one's own where HTTP has its.
    let other = reqwest::Method::from_bytes(ASKED.as_bytes()).unwrap();
    let refused = server
        .client
        .request(other, format!("{}/chat", server.base));
    drop(refused.send().await.unwrap().bytes().await);
    (traces, slots)
}

/// Policies that say aloud what they read, as none should: a guard that logs the newest message and
/// reports it as an error, and a filter that logs each piece of the answer.
fn gossips() -> [(&'static str, Vec<u8>); 2] {
    let mut guard = Guest::hookless("gossip");
    guard.world = "guarding";
    let guard = guard
        .importing(
            r#"(import "stent:policy/request@0.1.0" "[method]transcript.messages"
                (func $messages (param i32 i32)))
               (import "stent:policy/request@0.1.0" "[method]transcript.head"
                (func $head (param i32 i64 i32 i32)))"#,
        )
        .with(
            r#"(func (export "stent:policy/guard@0.1.0#check")
                 (param $req i32) (param $all i32) (result i32) (local $last i32)
                 (call $messages (local.get $all) (i32.const 1400))
                 (local.set $last (i32.add (i32.load (i32.const 1400))
                   (i32.mul (i32.const 24) (i32.sub (i32.load (i32.const 1404)) (i32.const 1)))))
                 (call $head (local.get $all) (i64.load (local.get $last)) (i32.const 200)
                   (i32.const 1420))
                 (call $log (i32.const 2) (i32.load (i32.const 1424)) (i32.load (i32.const 1428)))
                 (call $drop-request (local.get $req)) (call $drop-transcript (local.get $all))
                 (i32.store (i32.const 1024) (i32.const 1))
                 (i32.store (i32.const 1028) (i32.load (i32.const 1424)))
                 (i32.store (i32.const 1032) (i32.load (i32.const 1428)))
                 (i32.const 1024))"#,
        );
    let push = r#"(call $log (i32.const 2) (local.get $text) (local.get $bytes))
        (i32.store (i32.const 1024) (i32.const 0)) (i32.store (i32.const 1028) (i32.const 0))
        (i32.store (i32.const 1032) (local.get $text))
        (i32.store (i32.const 1036) (local.get $bytes)) (i32.const 1024)"#;
    let finish = words(1024, &[0, 0, 0]) + "(i32.const 1024)";
    let filter = Guest::filter("gossips", "", push, &finish);
    [("guard.wasm", guard.core()), ("filter.wasm", filter.core())]
}

/// A server whose policies say aloud what they read, or fail.
async fn start(sets: &[&str], receiver: &Receiver) -> Server {
    // Its fault is told in log, spans and metrics.
    let bad = ("trim.wasm", Guest::trimmer("bad", TRAP).core());
    let [guard, filter] = gossips();
    start_with(&[guard, filter, bad], sets, receiver).await
}

async fn start_with(policies: &[(&str, Vec<u8>)], sets: &[&str], receiver: &Receiver) -> Server {
    let endpoint = format!("telemetry.otlp={}", receiver.endpoint());
    let said = format!("engine.script.text=I say {SAID} to everyone.");
    let own = [
        "engine.kind=scripted",
        "engine.script.token=20ms",
        "engine.n_ctx=2048",
        &said,
        &endpoint,
    ];
    let server = Server::launch(&[&own, sets].concat(), |folder| {
        for (file, policy) in policies {
            std::fs::write(folder.join(file), policy).unwrap();
        }
    });
    server
        .until("it is ready", async |s| {
            let asked = s.client.get(format!("{}/ready", s.base)).send().await;
            asked.is_ok_and(|response| response.status() == 200)
        })
        .await;
    server
}

async fn spans(receiver: Arc<Receiver>, traces: Vec<String>) -> Vec<Received> {
    let all = move || -> Vec<Received> {
        let whole = |id: &String| {
            receiver.server(id);
            receiver.trace(id, 1)
        };
        traces.iter().flat_map(whole).collect()
    };
    tokio::task::spawn_blocking(all).await.unwrap()
}

#[tokio::test]
async fn nothing_of_what_people_write_is_kept() {
    let receiver = Arc::new(Receiver::start(Protocol::Grpc));
    // As talkative as it gets: libraries too.
    let server = start(&["log.filter=trace"], &receiver).await;
    let (traces, slots) = ask_all(&server).await;
    let seen = spans(Arc::clone(&receiver), traces).await;
    assert!(seen.len() > 50, "{}", seen.len());
    let mut kept = kept(&server, &seen).await;
    kept.push(("slots while it speaks".into(), slots.to_string()));
    assert!(
        server.log().len() > 10_000,
        "the log is not talkative: {}",
        server.log()
    );
    for canary in ALL {
        assert_eq!(holding(&kept, canary), Vec::<&str>::new(), "{canary}");
    }
    for gossip in ["gossip", "gossips"] {
        let (log, policy) = (server.log(), format!("\"policy\":\"{gossip}\""));
        let mut lines = log.lines().filter(|line| line.contains(&policy));
        let withheld = lines.any(|line| line.contains("withheld: it repeats"));
        assert!(withheld, "{gossip} said nothing");
    }
    assert!(
        server
            .log()
            .contains("the guard policy gossip failed: it reported: (withheld"),
        "its error is told without its words"
    );
    assert!(
        !server.log().contains("capture_content"),
        "nothing warns of what is off"
    );
}

#[tokio::test]
async fn one_switch_lets_content_into_spans_and_says_so() {
    let receiver = Arc::new(Receiver::start(Protocol::Grpc));
    let server = start(
        &["telemetry.capture_content=true", "log.filter=debug"],
        &receiver,
    )
    .await;
    let warned = server.log();
    assert!(
        warned.contains("telemetry.capture_content is on: questions and answers are exported"),
        "{warned}"
    );
    let (traces, _) = ask_all(&server).await;
    let seen = spans(Arc::clone(&receiver), traces).await;
    let kept = kept(&server, &seen).await;
    assert_eq!(holding(&kept, SESSION), Vec::<&str>::new());
    for (canary, attribute) in [
        (ASKED, "gen_ai.input.messages"),
        (SAID, "gen_ai.output.messages"),
    ] {
        let places = holding(&kept, canary);
        assert!(
            !places.is_empty() && places.iter().all(|place| place.starts_with("span ")),
            "{places:?}"
        );
        for span in &seen {
            let told: Vec<_> = span
                .attributes
                .iter()
                .filter(|(_, v)| v.to_string().contains(canary))
                .collect();
            // What was said before is part of what is asked.
            let allowed = [attribute, "gen_ai.input.messages"];
            assert!(
                told.iter().all(|(key, _)| allowed.contains(&key.as_str())),
                "{told:?}"
            );
        }
    }
}
