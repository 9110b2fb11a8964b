//! Another answer to the last question: it takes the old one's place, once it is there.

use std::fs;

use serde_json::{Value, json};

use crate::policy::guest::{Guest, words};
use crate::support::server::{Frames, Server, told};

const SPEAKER: [&str; 2] = [
    "engine.kind=scripted",
    "engine.script.text=one two three four five six seven eight",
];

/// The scripted engine says the same words to everyone: how many tells the answers apart.
fn body(message: &str, trigger: &str, tokens: u32) -> Value {
    json!({ "message": message, "session_id": "s", "trigger": trigger, "max_tokens": tokens })
}

/// The answer's text and summary.
async fn ask(server: &Server, body: Value) -> (String, Value) {
    let response = server.post("/chat/stream", body).await;
    assert_eq!(response.status(), 200, "{}", server.log());
    told(&Frames::of(response).rest().await)
}

async fn submit(server: &Server, message: &str, tokens: u32) -> (String, Value) {
    ask(server, body(message, "submit-message", tokens)).await
}

async fn regenerate(server: &Server, message: &str, tokens: u32) -> (String, Value) {
    ask(server, body(message, "regenerate-message", tokens)).await
}

/// The texts of the session, and the numbers of their exchanges.
async fn remembered(server: &Server) -> Vec<(String, u64)> {
    let held = server.session("s").await;
    let messages = held["messages"].as_array().into_iter().flatten();
    let told = messages.map(|m| (m["text"].as_str(), m["exchange"].as_u64()));
    told.map(|(text, exchange)| (text.unwrap().trim().to_owned(), exchange.unwrap()))
        .collect()
}

fn expected(texts: &[&str]) -> Vec<(String, u64)> {
    let numbered = texts.iter().zip([0, 0, 1, 1, 2, 2]);
    numbered
        .map(|(text, exchange)| (text.trim().to_owned(), exchange))
        .collect()
}

#[tokio::test]
async fn another_answer_takes_the_place_of_the_last_one() {
    let server = Server::start(&SPEAKER).await;
    submit(&server, "Why?", 2).await;
    let (_, first) = submit(&server, "And then?", 3).await;
    let (text, second) = regenerate(&server, "And then?", 4).await;
    assert_eq!(text.trim(), "one two three four");
    // The model is asked what it was asked: its old answer is not before its eyes.
    assert_eq!(first["prompt_tokens"], second["prompt_tokens"]);
    let (why, then) = ("one two", "one two three four");
    assert_eq!(
        remembered(&server).await,
        expected(&["Why?", why, "And then?", then])
    );
    // The route that answers at once knows it too, and a conversation goes on behind it.
    let whole = body("And then?", "regenerate-message", 5);
    let whole: Value = server.post("/chat", whole).await.json().await.unwrap();
    let then = whole["text"].as_str().unwrap();
    assert_eq!(then.trim(), "one two three four five");
    submit(&server, "Why?", 1).await;
    assert_eq!(
        remembered(&server).await,
        expected(&["Why?", why, "And then?", then, "Why?", "one"])
    );
}

#[tokio::test]
async fn what_broke_off_or_asks_something_else_replaces_nothing() {
    let sets = [&SPEAKER[..], &["engine.script.token=20ms"]].concat();
    let server = Server::start(&sets).await;
    submit(&server, "Why?", 2).await;
    // Stopped after its first word: the old answer stays.
    let again = body("Why?", "regenerate-message", 8);
    let mut stopped = Frames::of(server.post("/chat/stream", again).await);
    while !stopped.next().await.unwrap().contains("text-delta") {}
    drop(stopped);
    server
        .until("the slot is free", async |s| s.idle_slots().await == 4)
        .await;
    assert_eq!(remembered(&server).await, expected(&["Why?", "one two"]));
    // A question that broke off was not remembered: asked again, it is the session's next one.
    let lost = body("And then?", "submit-message", 8);
    let mut lost = Frames::of(server.post("/chat/stream", lost).await);
    while !lost.next().await.unwrap().contains("text-delta") {}
    drop(lost);
    regenerate(&server, "And then?", 3).await;
    assert_eq!(
        remembered(&server).await,
        expected(&["Why?", "one two", "And then?", "one two three"])
    );
    // The first question of a session, and one without a session.
    let mut first = body("Hello", "regenerate-message", 2);
    first["session_id"] = json!("another");
    assert_eq!(ask(&server, first.clone()).await.0.trim(), "one two");
    first.as_object_mut().unwrap().remove("session_id");
    assert_eq!(ask(&server, first).await.0.trim(), "one two");
}

#[tokio::test]
async fn a_failed_attempt_leaves_the_old_answer() {
    let sets = [&SPEAKER[..], &["engine.script.token=50ms"]].concat();
    let mut server = Server::start(&[&sets[..], &["server.drain=100ms"]].concat()).await;
    submit(&server, "Why?", 2).await;
    let again = body("Why?", "regenerate-message", 8);
    let mut running = Frames::of(server.post("/chat/stream", again).await);
    while !running.next().await.unwrap().contains("text-delta") {}
    server.terminate();
    let frames = running.rest().await;
    assert!(
        frames.iter().any(|frame| frame["type"] == "error"),
        "{frames:?}"
    );
    server.ended().await;
    let server = server.again(&sets).await;
    assert_eq!(remembered(&server).await, expected(&["Why?", "one two"]));
}

#[tokio::test]
async fn another_answer_is_drawn_anew_unless_a_seed_is_given() {
    let shared = [
        "policies.cache.scope=tenant",
        "policies.cache.config.scope=tenant",
    ];
    let server = Server::start(&[&SPEAKER[..], &shared].concat()).await;
    let asked = async |trigger: &str, seed: Value| {
        // To its end: a shorter one would not be cached.
        let mut body = body("Why?", trigger, 20);
        if !seed.is_null() {
            body["seed"] = seed;
        }
        ask(&server, body).await.1["cached"].clone()
    };
    for (trigger, seed, cached) in [
        ("submit-message", Value::Null, false),
        ("regenerate-message", Value::Null, false),
        ("regenerate-message", json!("random"), false),
        // The same draw of the same question is the answer that is kept.
        ("regenerate-message", json!("derived"), true),
    ] {
        assert_eq!(asked(trigger, seed).await, cached, "{trigger}");
    }
    assert_eq!(remembered(&server).await.len(), 2);
}

/// What a session holds is what the guard made of the question.
#[tokio::test]
async fn a_question_that_a_guard_rewrites_is_known_again() {
    let text = r#"(data (i32.const 2048) "What is asthma?")"#;
    let verdict = words(1024, &[0, 1, 2048, 15]) + "(i32.const 1024)";
    let guard = Guest::guard("rewriter", &verdict).with(text);
    let server = Server::launch(&SPEAKER, |policies| {
        fs::write(policies.join("mine.wasm"), guard.core()).unwrap();
    });
    server
        .until("the guard rewrites", async |s| {
            let asked = s.client.post(format!("{}/chat", s.base));
            let asked = asked.json(&json!({ "message": "a secret", "session_id": "s" }));
            let answered = asked.send().await.is_ok_and(|it| it.status() == 200);
            answered
                && remembered(s)
                    .await
                    .iter()
                    .any(|(text, _)| text == "What is asthma?")
        })
        .await;
    let before = remembered(&server).await;
    let (_, first) = submit(&server, "my secret question", 2).await;
    let (_, second) = regenerate(&server, "my secret question", 3).await;
    assert_eq!(first["prompt_tokens"], second["prompt_tokens"]);
    let after = remembered(&server).await;
    assert_eq!(after.len(), before.len() + 2);
    assert_eq!(after[after.len() - 2].0, "What is asthma?");
    assert_eq!(after[after.len() - 1].0.trim(), "one two three");
}

#[tokio::test]
async fn an_unknown_trigger_is_refused() {
    let server = Server::start(&SPEAKER).await;
    let refused = server.post("/chat", body("Why?", "again", 1)).await;
    assert_eq!(refused.status(), 400);
    let error: Value = refused.json().await.unwrap();
    assert_eq!(error["error"]["param"], "trigger", "{error}");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("submit-message") && message.contains("regenerate-message"),
        "{message}"
    );
}
