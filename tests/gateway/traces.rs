//! The span tree of a request, as a real receiver gets it, and what is never in it.

use serde_json::json;

use crate::support::otlp::Receiver;
use crate::support::server::{Frames, Server, told};
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
