//! An answer from the cache is the stream that a fresh one is.

use serde_json::{Value, json};

use crate::support::redis::RedisServer;
use crate::support::server::{Frames, Server, told};

/// What a stream says, without what is each answer's own: ids, times, the text's pieces.
fn shape(frames: &[Value]) -> Vec<Value> {
    let mut shape = Vec::new();
    for frame in frames {
        let mut frame = frame.clone();
        match frame["type"].as_str().unwrap() {
            "start" => frame = json!({ "type": "start" }),
            "text-delta" => {
                let delta = frame["delta"].as_str().unwrap().to_owned();
                match shape.last_mut() {
                    Some(Value::Object(last)) if last["type"] == "text-delta" => {
                        let text = last["delta"].as_str().unwrap().to_owned() + &delta;
                        last.insert("delta".into(), text.into());
                        continue;
                    }
                    _ => {}
                }
            }
            "data-stent" if frame["id"] == "summary" => {
                let data = frame["data"].as_object_mut().unwrap();
                for own in [
                    "trace_id",
                    "ttft_ms",
                    "tokens_per_second",
                    "cached_tokens",
                    "cached",
                ] {
                    data.remove(own);
                }
            }
            _ => {}
        }
        shape.push(frame);
    }
    shape
}

/// Three questions of one conversation; the frames of the last answer.
async fn converse(server: &Server, session: &str) -> Vec<Value> {
    for message in ["What is asthma?", "What are its causes?"] {
        server.chat(message, session).await;
    }
    let body = json!({ "message": "How is it treated?", "session_id": session });
    Frames::of(server.post("/chat/stream", body).await)
        .rest()
        .await
}

#[tokio::test]
async fn a_hit_says_what_a_fresh_answer_says_also_what_was_trimmed() {
    let redis = RedisServer::start();
    let store = format!("cache.store={}", redis.url());
    let parts = [
        "policies.cache.config.normalise=true",
        "policies.cache.config.normalise_history=true",
    ];
    for store in ["cache.store=memory", store.as_str()] {
        for basis in [&parts[..0], &parts[..]] {
            let own = [
                "engine.kind=scripted",
                "policies.cache.scope=tenant",
                "policies.cache.config.scope=tenant",
                "policies.trim.config.exchanges=1",
                "cache.timeout=1s",
                store,
            ];
            let server = Server::start(&[&own[..], basis].concat()).await;
            let fresh = converse(&server, "first").await;
            let hit = converse(&server, "second").await;
            let cached = |frames: &[Value]| told(frames).1["cached"].as_bool().unwrap();
            assert!(!cached(&fresh) && cached(&hit), "{store} {basis:?}");
            assert_eq!(shape(&fresh), shape(&hit), "{store} {basis:?}");
            let trimmed = fresh.iter().find(|frame| frame["id"] == "trim");
            let dropped = &trimmed.unwrap()["data"]["trimmed"]["dropped"];
            assert!(dropped.as_u64().unwrap() >= 2, "{dropped}");
            // Where trimming cut is remembered as after a fresh answer: the next prompts are equal.
            let next = |session: &str| {
                let body = json!({ "message": "And then?", "session_id": session });
                server.post("/chat/stream", body)
            };
            let one = Frames::of(next("first").await).rest().await;
            let two = Frames::of(next("second").await).rest().await;
            assert_eq!(
                shape(&one),
                shape(&two),
                "{store} {basis:?}: the next answer"
            );
            assert!(cached(&two), "{store} {basis:?}: the next answer");
        }
    }
}

#[tokio::test]
async fn only_what_ended_as_it_should_is_kept_on_a_shared_server_too() {
    let redis = RedisServer::start();
    let store = format!("cache.store={}", redis.url());
    let sets = [
        "engine.kind=scripted",
        "engine.script.token=20ms",
        "policies.cache.scope=tenant",
        "policies.cache.config.scope=tenant",
        "cache.timeout=1s",
        &store,
    ];
    let server = Server::start(&sets).await;
    let kept = || redis.ask(&["zcard", "stent:{answers}:by-use"]);
    let body = json!({ "message": "What is a cold?" });
    let mut frames = Frames::of(server.post("/chat/stream", body.clone()).await);
    while !frames.next().await.unwrap().contains("text-delta") {}
    drop(frames);
    server
        .until("the slot is free", async |s| s.idle_slots().await == 4)
        .await;
    assert_eq!(kept(), "0", "left half-way");
    let length = json!({ "message": "What is a cold?", "max_tokens": 3 });
    let cut = Frames::of(server.post("/chat/stream", length).await)
        .rest()
        .await;
    assert!(
        cut.iter().any(|frame| frame["finishReason"] == "length"),
        "{cut:?}"
    );
    assert_eq!(kept(), "0", "cut off, as the policy sees it");
    let whole = Frames::of(server.post("/chat/stream", body).await)
        .rest()
        .await;
    assert!(
        whole.iter().any(|frame| frame["finishReason"] == "stop"),
        "{whole:?}"
    );
    assert_eq!(kept(), "1");
}
