//! More people than slots: queue, refusal, departure, shutdown. The scripted engine sets the pace.

use serde_json::json;

use crate::support::server::{Frames, Server, told};

/// Slow enough to look at: twelve words of 50 ms each.
const SLOW: [&str; 3] = [
    "engine.kind=scripted",
    "engine.script.token=50ms",
    "cache.store=off",
];

#[tokio::test]
async fn the_fifth_waits_and_is_told_its_place() {
    let server = Server::start(&SLOW).await;
    let ask = |n: usize| {
        server.post(
            "/chat/stream",
            json!({ "message": format!("q{n}"), "session_id": format!("s{n}") }),
        )
    };
    let mut running = Vec::new();
    for n in 0..4 {
        running.push(Frames::of(ask(n).await));
    }
    let fifth = Frames::of(ask(4).await).rest().await;
    let place = fifth
        .iter()
        .find(|f| f["id"] == "queue")
        .expect("a frame tells the place");
    assert_eq!(place["data"]["queued"]["position"], 1);
    assert!(!told(&fifth).0.is_empty());
    for stream in running {
        assert!(!told(&stream.rest().await).0.is_empty());
    }
    server
        .until("all slots are free", async |s| s.idle_slots().await == 4)
        .await;
}

#[tokio::test]
async fn the_one_too_many_is_refused_before_the_head() {
    let sets = [SLOW.as_slice(), &["engine.slots=1", "engine.queue=0"]].concat();
    let server = Server::start(&sets).await;
    let first = server
        .post("/chat/stream", json!({ "message": "a", "session_id": "a" }))
        .await;
    let second = server
        .post("/chat/stream", json!({ "message": "b", "session_id": "b" }))
        .await;
    assert_eq!(second.status(), 429);
    assert!(second.headers().contains_key("retry-after"));
    assert!(
        told(&Frames::of(first).rest().await).1["tokens"]
            .as_u64()
            .unwrap()
            > 3
    );
    server.chat("c", "c").await;
}

#[tokio::test]
async fn who_leaves_frees_the_slot_and_harms_nobody() {
    let sets = [SLOW.as_slice(), &["engine.script.token=200ms"]].concat();
    let server = Server::start(&sets).await;
    let ask = |session: &'static str| {
        server.post(
            "/chat/stream",
            json!({ "message": session, "session_id": session }),
        )
    };
    let stays = Frames::of(ask("stays").await);
    let mut leaves = Frames::of(ask("leaves").await);
    while !leaves.next().await.unwrap().contains("text-delta") {}
    assert_eq!(server.idle_slots().await, 2);
    drop(leaves);
    server
        .until("the slot is free", async |s| s.idle_slots().await == 3)
        .await;
    assert!(told(&stays.rest().await).0.ends_with("everyone."));
    let gone = server
        .client
        .get(format!("{}/sessions/leaves", server.base))
        .send()
        .await
        .unwrap();
    assert_eq!(
        gone.status(),
        404,
        "an answer that nobody took is not remembered"
    );
}

#[tokio::test]
async fn identical_questions_share_one_run() {
    let server = Server::start(&SLOW).await;
    let ask = |n: usize| {
        server.post(
            "/chat/stream",
            json!({ "message": "same", "session_id": format!("s{n}") }),
        )
    };
    let streams = futures::future::join_all(
        (0..8).map(async |n| told(&Frames::of(ask(n).await).rest().await)),
    )
    .await;
    assert!(streams.iter().all(|(text, _)| *text == streams[0].0));
    let shared = streams
        .iter()
        .filter(|(_, summary)| summary["coalesced"] == true)
        .count();
    assert_eq!(shared, 7, "{streams:?}");
}

#[tokio::test]
async fn a_shutdown_lets_running_answers_end() {
    let mut server = Server::start(&SLOW).await;
    let body = json!({ "message": "a", "session_id": "a" });
    let mut stream = Frames::of(server.post("/chat/stream", body).await);
    while !stream.next().await.unwrap().contains("text-delta") {}
    server.terminate();
    let frames = stream.rest().await;
    assert_eq!(frames.last().unwrap()["type"], "finish");
    assert_eq!(server.ended().await, 0, "{}", server.log());
}
