//! What a client is told of reuse is what was not computed, also when its window slides.

use serde_json::{Value, json};

use crate::support::server::{Frames, Server, told};

const QUESTIONS: [&str; 7] = [
    "What is malaria?",
    "What are its symptoms?",
    "What are its causes?",
    "How is it treated?",
    "What is asthma?",
    "What are its symptoms?",
    "How is it treated?",
];

/// Two exchanges stay: from the fourth question on, each one pushes one out.
const SETS: [&str; 5] = [
    "cache.store=off",
    "engine.max_tokens=40",
    "engine.threads=1",
    "policies.trim.config.exchanges=2",
    "policies.trim.config.slack=0",
];

async fn ask(server: &Server, session: &str, message: &str) -> Vec<Value> {
    let body = json!({ "message": message, "session_id": session, "temperature": 0 });
    let response = server.post("/chat/stream", body).await;
    assert_eq!(response.status(), 200, "{}", server.log());
    Frames::of(response).rest().await
}

async fn total(server: &Server, kind: &str) -> u64 {
    let totals = server.admin("/admin/slots").await["totals"].clone();
    totals[kind].as_u64().unwrap()
}

#[tokio::test]
async fn cached_tokens_are_those_that_were_not_computed_though_the_window_slides() {
    let server = Server::start(&SETS).await;
    ask(&server, "other", QUESTIONS[0]).await;
    let first = ask(&server, "second", QUESTIONS[0]).await;
    let head = told(&first).1["cached_tokens"].as_u64().unwrap();
    for (turn, message) in QUESTIONS.into_iter().enumerate() {
        let (computed, prepared) = (
            total(&server, "prefilled").await,
            total(&server, "prepared").await,
        );
        let frames = ask(&server, "s", message).await;
        server
            .until("the answer is over in the engine too", async |s| {
                s.idle_slots().await == 4
            })
            .await;
        let summary = told(&frames).1;
        let count = |key: &str| summary[key].as_u64().unwrap();
        let computed = total(&server, "prefilled").await - computed;
        assert_eq!(
            count("prompt_tokens") - count("cached_tokens"),
            computed,
            "turn {turn}: {summary}"
        );
        let slid = frames
            .iter()
            .any(|frame| frame["data"]["trimmed"].is_object());
        assert_eq!(slid, turn > 2, "{frames:?}");
        if turn > 0 {
            // What comes behind the operator's text has moved, and yet was there.
            assert!(count("cached_tokens") > head, "turn {turn}: {summary}");
        }
        server
            .until("the next prompt is being prepared", async |s| {
                total(s, "prepared").await > prepared
            })
            .await;
    }
}
