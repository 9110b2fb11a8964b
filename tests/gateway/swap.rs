//! Policies come and go while people are served.

use serde_json::{Value, json};

use crate::support::server::{Frames, Server, bundled, told};

const SLOW: [&str; 3] = [
    "engine.kind=scripted",
    "engine.script.token=50ms",
    "cache.store=off",
];

async fn live(server: &Server, hook: &str) -> Value {
    let list = server.admin("/admin/policies").await;
    let serving =
        |p: &&Value| p["hook"] == hook && (p["state"] == "live" || p["state"] == "builtin");
    list.as_array()
        .unwrap()
        .iter()
        .find(serving)
        .unwrap()
        .clone()
}

#[tokio::test]
async fn a_swap_during_a_stream_changes_only_what_comes_after() {
    let server = Server::start(&SLOW).await;
    assert_eq!(live(&server, "trim").await["state"], "builtin");
    let body =
        |session: &str| json!({ "message": "hello", "session_id": session, "seed": "random" });
    let mut old = Frames::of(server.post("/chat/stream", body("old")).await);
    while !old.next().await.unwrap().contains("text-delta") {}
    std::fs::write(
        server.policies().join("mine.wasm"),
        bundled("trim-exchanges"),
    )
    .unwrap();
    server
        .until("the file serves", async |s| {
            live(s, "trim").await["state"] == "live"
        })
        .await;
    let new = Frames::of(server.post("/chat/stream", body("new")).await)
        .rest()
        .await;
    let (before, after) = (told(&old.rest().await).1, told(&new).1);
    assert!(
        before["generation"].as_u64().unwrap() < after["generation"].as_u64().unwrap(),
        "{before} {after}"
    );
    let policy = live(&server, "trim").await;
    assert!(policy["file"].as_str().unwrap().ends_with("mine.wasm"));
    assert_eq!(policy["generation"], after["generation"]);
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_says_why() {
    let server = Server::start(&SLOW).await;
    let before = live(&server, "trim").await;
    std::fs::write(server.policies().join("broken.wasm"), b"this is no policy").unwrap();
    let rejected = async |s: &Server| {
        let list = s.admin("/admin/policies").await;
        list.as_array()
            .unwrap()
            .iter()
            .find(|p| p["state"] == "rejected")
            .cloned()
    };
    server
        .until("it is rejected", async |s| rejected(s).await.is_some())
        .await;
    let entry = rejected(&server).await.unwrap();
    assert!(
        entry["file"].as_str().unwrap().ends_with("broken.wasm"),
        "{entry}"
    );
    assert!(
        entry["stage"].is_string() && !entry["reason"].as_str().unwrap().is_empty(),
        "{entry}"
    );
    assert!(server.log().contains("broken.wasm"));
    assert_eq!(live(&server, "trim").await, before);
    server.chat("still there?", "s").await;
    std::fs::remove_file(server.policies().join("broken.wasm")).unwrap();
    server
        .until("it is off the list", async |s| rejected(s).await.is_none())
        .await;
}
