//! What guards and filters do to a conversation, as its clients see it. The scripted engine says
//! one word in each part, so that a number spreads over several.

use std::fs;

use serde_json::{Value, json};

use crate::policy::guest::{Guest, TRAP, words};
use crate::support::server::{Frames, Server, told};

const GUARD: [&str; 2] = [
    "engine.kind=scripted",
    "policies.guard.bundled=guard-limits",
];

const REDACT: [&str; 5] = [
    "engine.kind=scripted",
    "policies.filter.bundled=filter-redact",
    "policies.filter.config.disclaimer=Ask a doctor.",
    "policies.cache.config.scope=tenant",
    "policies.cache.scope=tenant",
];
const SPOKEN: &str = "engine.script.text=Call +44 20 7946 0000 or mail jo@example.org today.";
const SHOWN: &str =
    "Call [phone number removed] or mail [e-mail address removed] today.\n\nAsk a doctor.";

async fn generated(server: &Server) -> u64 {
    let slots = server.admin("/admin/slots").await;
    slots["totals"]["generated"].as_u64().unwrap()
}

/// The texts of a session, oldest first.
async fn remembered(server: &Server, session: &str) -> Vec<String> {
    let held = server.session(session).await;
    let messages = held["messages"].as_array().into_iter().flatten();
    messages
        .map(|m| m["text"].as_str().unwrap().to_owned())
        .collect()
}

async fn stream(server: &Server, message: &str, session: &str) -> Vec<Value> {
    let body = json!({ "message": message, "session_id": session });
    let response = server.post("/chat/stream", body).await;
    assert_eq!(response.status(), 200, "{}", server.log());
    Frames::of(response).rest().await
}

/// A server with this guest in its folder, serving `hook`.
async fn with(guest: &Guest, hook: &str, sets: &[&str]) -> Server {
    let sets = [&["engine.kind=scripted"], sets].concat();
    let server = Server::launch(&sets, |policies| {
        fs::write(policies.join("mine.wasm"), guest.core()).unwrap();
    });
    server
        .until("the guest serves", async |s| {
            let url = format!("{}/admin/policies", s.admin);
            let Ok(response) = s.client.get(url).send().await else {
                return false;
            };
            let list: Value = response.json().await.unwrap();
            let mut list = list.as_array().unwrap().iter();
            list.any(|p| p["hook"] == hook && p["state"] == "live")
        })
        .await;
    server
}

#[tokio::test]
async fn a_guards_own_reply_is_the_answer_and_the_model_is_not_asked() {
    let server = Server::start(
        &[
            &GUARD[..],
            &["policies.guard.config.emergency_reply=Call 112."],
        ]
        .concat(),
    )
    .await;
    let asked = "Help, I can't breathe!";
    let (text, summary) = told(&stream(&server, asked, "s").await);
    assert_eq!(text, "Call 112.");
    assert_eq!(summary["tokens"], 0);
    assert_eq!(generated(&server).await, 0);
    assert_eq!(remembered(&server, "s").await, [asked, "Call 112."]);
    assert_ne!(server.chat("Hello", "s").await["text"], "Call 112.");
    assert!(generated(&server).await > 0);
}

#[tokio::test]
async fn a_guards_refusal_is_422_with_the_reason_and_leaves_nothing() {
    let server =
        Server::start(&[&GUARD[..], &["policies.guard.config.max_chars=20"]].concat()).await;
    let long = "x y ".repeat(6);
    let messages = json!([{ "role": "user", "content": long }]);
    for (route, body) in [
        (
            "/chat/stream",
            json!({ "message": long, "session_id": "s" }),
        ),
        ("/chat", json!({ "message": long, "session_id": "s" })),
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "stream": true }),
        ),
    ] {
        let response = server.post(route, body).await;
        assert_eq!(response.status(), 422, "{route}");
        let error: Value = response.json().await.unwrap();
        let reason = "The message has 24 characters; at most 20 are accepted.";
        assert_eq!(error["error"]["message"], reason, "{route}");
        assert_eq!(error["error"]["code"], "refused", "{route}");
    }
    assert_eq!(generated(&server).await, 0);
    assert_eq!(remembered(&server, "s").await, [""; 0]);
}

#[tokio::test]
async fn a_guards_other_words_are_what_is_asked_and_remembered() {
    let text = r#"(data (i32.const 2048) "What is asthma?")"#;
    let verdict = words(1024, &[0, 1, 2048, 15]) + "(i32.const 1024)";
    let guard = Guest::guard("rewriter", &verdict).with(text);
    let server = with(&guard, "guard", &[]).await;
    let (answer, _) = told(&stream(&server, "my secret question", "s").await);
    assert_eq!(
        remembered(&server, "s").await,
        ["What is asthma?", answer.as_str()]
    );
}

#[tokio::test]
async fn a_filter_sees_over_the_borders_of_parts_and_its_text_is_what_remains() {
    let server = Server::start(&[&REDACT[..], &[SPOKEN]].concat()).await;
    let frames = stream(&server, "Whom do I call?", "one").await;
    let parts = frames.iter().filter(|frame| frame["type"] == "text-delta");
    assert!(parts.count() > 3, "it streams: {frames:?}");
    let (text, fresh) = told(&frames);
    assert_eq!(text, SHOWN);
    assert_eq!(fresh["cached"], false);
    assert_eq!(frames.last().unwrap()["finishReason"], "stop");
    let (text, hit) = told(&stream(&server, "Whom do I call?", "two").await);
    assert_eq!((text.as_str(), &hit["cached"]), (SHOWN, &json!(true)));
    for session in ["one", "two"] {
        assert_eq!(
            remembered(&server, session).await,
            ["Whom do I call?", SHOWN]
        );
    }
    assert_eq!(server.chat("Whom do I call?", "three").await["text"], SHOWN);
}

#[tokio::test]
async fn a_filter_that_stops_the_answer_says_so_and_only_its_words_remain() {
    // Echoes the first two words; the third is replaced, and nothing comes after it.
    let stop = words(1092, &[1, 600, 14, 600, 14]) + "(return (i32.const 1088))";
    let push = format!(
        "(global.set $n (i32.add (global.get $n) (i32.const 1))) \
         (if (i32.eq (global.get $n) (i32.const 3)) (then {stop})) \
         (i32.store (i32.const 1096) (local.get $text)) \
         (i32.store (i32.const 1100) (local.get $bytes)) (i32.const 1088)"
    );
    let filter = Guest::filter("stopper", "", &push, "(i32.const 1152)")
        .with("(global $n (mut i32) (i32.const 0))");
    let server = with(
        &filter,
        "filter",
        &["engine.script.text=one two three four five"],
    )
    .await;
    let frames = stream(&server, "Count", "s").await;
    let (text, _) = told(&frames);
    assert_eq!(text, "one two it will not do");
    let last = frames.last().unwrap();
    assert_eq!(
        (&last["type"], &last["finishReason"]),
        (&json!("finish"), &json!("content-filter"))
    );
    assert_eq!(remembered(&server, "s").await, ["Count", text.as_str()]);
    let body = json!({ "messages": [{ "role": "user", "content": "Count" }] });
    let whole: Value = server
        .post("/v1/chat/completions", body)
        .await
        .json()
        .await
        .unwrap();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "content_filter");
    assert_eq!(choice["message"]["content"], text);
    server
        .until("the slots are free", async |s| s.idle_slots().await == 4)
        .await;
}

/// A builder that declares no room for itself and then fails: the message just fits without the
/// built-in layout that takes over, and not with it.
#[tokio::test]
async fn a_prompt_that_outgrows_the_context_names_the_field_of_its_route() {
    let declare = words(1024, &[0, 0, 0, 0]) + "(i32.const 1024)";
    let guest = Guest::prompt("talker", &declare, TRAP);
    let server = with(&guest, "prompt", &["engine.max_tokens=1024"]).await;
    // Three bytes are a token of the scripted engine, and 1024 of 2048 are left.
    let text = "x".repeat(3 * 1024);
    let messages = json!([{ "role": "user", "content": text }]);
    for (route, body, field) in [
        ("/chat", json!({ "message": text }), "message"),
        (
            "/v1/chat/completions",
            json!({ "messages": messages }),
            "messages",
        ),
    ] {
        let response = server.post(route, body).await;
        let status = response.status();
        let error: Value = response.json().await.unwrap();
        assert_eq!(status, 400, "{route}: {error}");
        assert_eq!(error["error"]["param"], field, "{error}");
        let message = error["error"]["message"].as_str().unwrap();
        let start = format!("{field}: the message needs 10");
        assert!(
            message.starts_with(&start) && message.ends_with("and 1024 fit"),
            "{message}"
        );
    }
}
