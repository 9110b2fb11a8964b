//! More people than slots, and a swap in the middle, with the demo model itself. It is quick, so a
//! reward for repeated words makes it say the same for ever: such an answer has all its tokens.

use serde_json::{Value, json};

use crate::support::server::{Frames, Server, bundled, told};

const SETS: [&str; 5] = [
    "engine.n_ctx=8192",
    "engine.threads=1",
    "engine.speculation=false",
    "cache.store=off",
    "engine.max_tokens=200",
];

/// Asks for an answer of `most` tokens, and reads until it has begun.
async fn long(server: &Server, session: &str, most: u32) -> Frames {
    // Each asks in other words: the same question at temperature 0 would share one run.
    let message = format!("What is diabetes, {session}?");
    let body = json!({ "message": message, "session_id": session, "temperature": 0,
        "repeat_penalty": 0.1, "frequency_penalty": -2, "max_tokens": most, "seed": session.len() });
    let response = server.post("/chat/stream", body).await;
    assert_eq!(response.status(), 200, "{}", server.log());
    let mut frames = Frames::of(response);
    while !frames.next().await.unwrap().contains("text-delta") {}
    frames
}

fn short(session: &str) -> Value {
    json!({ "message": "What is asthma?", "session_id": session, "max_tokens": 60 })
}

#[tokio::test]
async fn a_fifth_waits_until_somebody_leaves() {
    let server = Server::start(&SETS).await;
    let mut running = Vec::new();
    for session in ["a", "bb", "ccc", "dddd"] {
        running.push(long(&server, session, 8000).await);
    }
    let mut fifth = Frames::of(server.post("/chat/stream", short("fifth")).await);
    let place = loop {
        let frame = fifth.next().await.unwrap();
        assert!(!frame.contains("text-delta"), "no slot was free: {frame}");
        if frame.contains("queued") {
            break serde_json::from_str::<Value>(&frame).unwrap();
        }
    };
    assert_eq!(place["data"]["queued"]["position"], 1);
    server
        .until("four run and one waits", async |s| {
            let status = s.admin("/admin/slots").await;
            s.idle_slots().await == 0 && status["queued"] == 1
        })
        .await;
    drop(running.pop());
    let (text, summary) = told(&fifth.rest().await);
    assert!(text.to_lowercase().contains("asthma"), "{text}");
    assert!(summary["tokens"].as_u64().unwrap() > 3);
    // The others were not disturbed: each still holds its slot.
    server
        .until("one slot is free", async |s| s.idle_slots().await == 1)
        .await;
    drop(running);
    server
        .until("all slots are free", async |s| s.idle_slots().await == 4)
        .await;
}

#[tokio::test]
async fn the_one_too_many_gets_429_until_the_slot_is_free() {
    let sets = [SETS.as_slice(), &["engine.slots=1", "engine.queue=0"]].concat();
    let server = Server::start(&sets).await;
    let first = long(&server, "first", 8000).await;
    let refused = server.post("/chat/stream", short("second")).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    let error: Value = refused.json().await.unwrap();
    assert_eq!(error["error"]["code"], "overloaded");
    drop(first);
    server
        .until("somebody is let in again", async |s| {
            s.post("/chat", short("third")).await.status() == 200
        })
        .await;
}

#[tokio::test]
async fn a_running_answer_keeps_its_policies_while_others_get_new_ones() {
    let server = Server::start(&SETS).await;
    let running = long(&server, "old", 6000).await;
    let file = server.policies().join("mine.wasm");
    std::fs::write(file, bundled("trim-exchanges")).unwrap();
    server
        .until("the file serves", async |s| {
            let list = s.admin("/admin/policies").await;
            let list = list.as_array().unwrap();
            list.iter()
                .any(|p| p["hook"] == "trim" && p["state"] == "live")
        })
        .await;
    assert_eq!(server.idle_slots().await, 3, "it ended before the swap");
    let new = Frames::of(server.post("/chat/stream", short("new")).await);
    let (text, after) = told(&new.rest().await);
    assert!(text.to_lowercase().contains("asthma"), "{text}");
    let (_, before) = told(&running.rest().await);
    let generation = |summary: &Value| summary["generation"].as_u64().unwrap();
    assert!(generation(&before) < generation(&after), "{before} {after}");
    assert_eq!(before["tokens"], 6000, "not one token was lost: {before}");
}

#[tokio::test]
async fn a_shutdown_lets_the_models_own_answers_end() {
    // Longer than it takes to send somebody away, and no matter how slowly this machine counts.
    let sets = [SETS.as_slice(), &["server.drain=5m"]].concat();
    let mut server = Server::start(&sets).await;
    let mut running = Vec::new();
    for (session, tokens) in [("a", 600), ("bb", 800)] {
        running.push((long(&server, session, tokens).await, tokens));
    }
    server.terminate();
    server
        .until("newcomers are sent away", async |s| {
            let late = s.post("/chat", short("late")).await;
            late.status() == 503 && late.headers().contains_key("retry-after")
        })
        .await;
    for (stream, tokens) in running {
        let frames = stream.rest().await;
        assert_eq!(frames.last().unwrap()["finishReason"], "length");
        assert_eq!(told(&frames).1["tokens"], tokens);
    }
    assert_eq!(server.ended().await, 0, "{}", server.log());
    assert!(!server.log().contains("cut off"), "{}", server.log());
}
