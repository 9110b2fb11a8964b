//! The span tree of a request, as a real receiver gets it, and what is never in it.

use std::time::Duration;

use serde_json::json;

use crate::support::otlp::{Received, Receiver};
use crate::support::server::{Frames, Server, bundled, told};
use stent::trace::Protocol;

async fn tree(protocol: Protocol, name: &str) {
    let receiver = Receiver::start(protocol);
    let endpoint = format!("telemetry.otlp={}", receiver.endpoint());
    let protocol = format!("telemetry.protocol={name}");
    let server = Server::start(&[&endpoint, &protocol]).await;
    let body = json!({ "message": "What is asthma, canary-7f3a?", "session_id": "canary-session" });
    let frames = Frames::of(server.post("/chat/stream", body).await)
        .rest()
        .await;
    let (text, summary) = told(&frames);
    let trace = summary["trace_id"].as_str().unwrap().to_owned();
    let wanted = [
        "POST /chat/stream",
        "session.load",
        "policy cache.decide",
        "policy trim",
        "policy build",
        "cache.lookup",
        "admission",
        "queue.wait",
        "chat stent-demo",
        "prefill",
        "decode",
        "session.append",
        "cache.store",
    ];
    let spans = tokio::task::spawn_blocking(move || receiver.trace(&trace, wanted.len()))
        .await
        .unwrap();
    let root = spans
        .iter()
        .find(|span| span.name == "POST /chat/stream")
        .expect("a server span");
    for name in wanted {
        let span = spans.iter().find(|span| span.name == name);
        let span = span.unwrap_or_else(|| panic!("no span {name} in {spans:#?}"));
        let parent = match name {
            "POST /chat/stream" => continue,
            "prefill" | "decode" => "chat stent-demo",
            _ => "POST /chat/stream",
        };
        let above = spans.iter().find(|other| other.id == span.parent);
        assert_eq!(
            above.map(|s| s.name.as_str()),
            Some(parent),
            "parent of {name}"
        );
    }
    let outcome = root
        .attributes
        .iter()
        .find(|(key, _)| key == "stent.outcome");
    assert_eq!(outcome.map(|(_, value)| value.clone()), Some(json!("ok")));
    let everything = format!("{spans:?}{}", server.log());
    let metrics = server
        .client
        .get(format!("{}/metrics", server.admin))
        .send()
        .await
        .unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(
        metrics.contains("gen_ai_server_time_to_first_token_seconds"),
        "{metrics}"
    );
    for secret in ["canary-7f3a", "canary-session", text.get(..20).unwrap()] {
        assert!(
            !everything.contains(secret) && !metrics.contains(secret),
            "{secret} is told"
        );
    }
}

#[tokio::test]
async fn the_whole_tree_arrives_over_grpc() {
    tree(Protocol::Grpc, "grpc").await;
}

#[tokio::test]
async fn the_whole_tree_arrives_over_http() {
    tree(Protocol::Http, "http").await;
}

/// The trace of a file's reload, and its stages in the order in which they began.
async fn reload(receiver: Receiver, file: &'static str) -> (Receiver, Received, Vec<Received>) {
    let looked = tokio::task::spawn_blocking(move || {
        let spans = receiver.rooted("policy.reload", "stent.policy.file", file);
        (receiver, spans)
    });
    let (receiver, mut spans) = looked.await.unwrap();
    spans.sort_by_key(|span| (span.start, span.end));
    let at = spans
        .iter()
        .position(|span| span.parent.is_empty())
        .unwrap();
    let root = spans.remove(at);
    assert!(
        spans.iter().all(|span| span.parent == root.id),
        "{spans:#?}"
    );
    (receiver, root, spans)
}

fn names(spans: &[Received]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

#[tokio::test]
async fn a_reload_is_traced_until_the_last_answer_of_the_old_policies() {
    let receiver = Receiver::start(Protocol::Grpc);
    let endpoint = format!("telemetry.otlp={}", receiver.endpoint());
    // It goes on for as long as the test wants.
    let words = format!("engine.script.text={}", "word ".repeat(1000));
    let slow = [
        "engine.kind=scripted",
        "engine.script.token=100ms",
        &words,
        &endpoint,
    ];
    let server = Server::start(&slow).await;
    let body = json!({ "message": "hello", "session_id": "old", "seed": "random" });
    let mut old = Frames::of(server.post("/chat/stream", body).await);
    while !old.next().await.unwrap().contains("text-delta") {}
    assert_eq!(server.gauge("stent_policy_generations_live").await, 1);
    std::fs::write(
        server.policies().join("mine.wasm"),
        bundled("trim-exchanges"),
    )
    .unwrap();
    server
        .until("both generations are there", async |s| {
            s.gauge("stent_policy_generations_live").await == 2
        })
        .await;
    // A word each 100 ms.
    for _ in 0..4 {
        while !old.next().await.unwrap().contains("text-delta") {}
    }
    drop(old);
    server
        .until("the old one is freed", async |s| {
            s.gauge("stent_policy_generations_live").await == 1
        })
        .await;

    let (receiver, root, stages) = reload(receiver, "mine.wasm").await;
    let expected = [
        "settle",
        "verify",
        "compile",
        "instantiate",
        "probe",
        "cases",
        "swap",
        "drain",
    ];
    assert_eq!(names(&stages), expected);
    assert_eq!(root.told("stent.reload.result"), "swapped");
    assert_eq!(root.told("stent.policy.hook"), "trim");
    assert_eq!(root.told("stent.policy.name"), "trim-exchanges");
    assert_eq!(root.told("stent.policy.sha256").len(), 64);
    assert!(!root.failed && stages.iter().all(|stage| !stage.failed));
    let drain = stages.last().unwrap();
    let drained = Duration::from_nanos(drain.end - drain.start);
    assert!(
        drained > Duration::from_millis(200),
        "it drains while the stream runs: {drained:?}"
    );
    assert!(root.end >= drain.end);

    // A rejection names stage and reason, on the root and on the stage where it happened.
    std::fs::write(server.policies().join("broken.wasm"), b"this is no policy").unwrap();
    let (receiver, root, stages) = reload(receiver, "broken.wasm").await;
    assert_eq!(names(&stages), ["settle", "verify", "compile"]);
    assert!(root.failed && stages[2].failed && !stages[1].failed);
    assert_eq!(root.told("stent.reload.result"), "rejected");
    assert_eq!(root.told("stent.reload.stage"), "contract");
    let reason = root.told("stent.reload.reason");
    assert!(
        reason.contains("is not WebAssembly: it begins with"),
        "{reason}"
    );
    assert_eq!(stages[2].told("error.type"), "contract");

    // Cases are conversations: they are in the log's sentence, and nowhere in the trace.
    let cases = r#"[{ "name": "canary-51de", "hook": "guard", "expect": { "reply": "canary-51de" },
        "messages": [{ "role": "user", "text": "canary-51de" }] }]"#;
    std::fs::write(server.policies().join("guard.cases.json"), cases).unwrap();
    std::fs::write(
        server.policies().join("guard.wasm"),
        bundled("guard-limits"),
    )
    .unwrap();
    let (_receiver, root, stages) = reload(receiver, "guard.wasm").await;
    assert_eq!(names(&stages), expected[..6]);
    assert_eq!(root.told("stent.reload.stage"), "cases");
    assert!(server.log().contains("canary-51de"));
    let all = format!(
        "{}{}",
        root.raw,
        stages.iter().map(|s| s.raw.as_str()).collect::<String>()
    );
    assert!(!all.contains("canary-51de"), "{all}");
}
