//! Lost connections: an answer is taken up where it was left, and no retry runs a prompt twice.

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use stent::access::Digest;

use crate::support::server::{Frames, Server, told};

/// Twelve words of 100 ms each.
const SLOW: [&str; 3] = [
    "engine.kind=scripted",
    "engine.script.token=100ms",
    "cache.store=off",
];
const TEXT: &str = "This is the scripted engine: it says the same words to everyone.";

/// Numbered frames: number and payload.
async fn numbered(response: Response) -> Vec<(usize, String)> {
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    let frames = text.split("\n\n").filter(|frame| frame.starts_with("id: "));
    let frame = |frame: &str| {
        let (id, data) = frame.split_once('\n').unwrap();
        let id = id.strip_prefix("id: ").unwrap().parse().unwrap();
        (id, data.strip_prefix("data: ").unwrap().to_owned())
    };
    frames.map(frame).collect()
}

/// The first bytes of a stream: its response id, and how many frames were seen.
async fn begin(response: &mut Response) -> (String, usize) {
    let mut text = String::new();
    while !text.contains("text-delta") {
        let chunk = response.chunk().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let id = text.split("\"messageId\":\"").nth(1).unwrap();
    let id = id.split('"').next().unwrap().to_owned();
    (id, text.matches("\n\n").count())
}

fn text(frames: &[(usize, String)]) -> String {
    let parts = frames
        .iter()
        .filter_map(|(_, data)| serde_json::from_str::<Value>(data).ok());
    parts
        .filter_map(|part| part["delta"].as_str().map(str::to_owned))
        .collect()
}

fn ask(session: &str) -> Value {
    json!({ "message": "q", "session_id": session, "resume": true })
}

async fn totals(server: &Server) -> u64 {
    let status = server.admin("/admin/slots").await;
    status["totals"]["generated"].as_u64().unwrap()
}

#[tokio::test]
async fn a_lost_stream_goes_on_where_it_was_left() {
    let server = Server::start(&SLOW).await;
    let resume = |id: &str| {
        server
            .client
            .get(format!("{}/chat/stream/{id}", server.base))
    };
    let mut first = server.post("/chat/stream", ask("s")).await;
    let (id, seen) = begin(&mut first).await;
    drop(first);
    let last = |asked: RequestBuilder, seen: usize| asked.header("last-event-id", seen.to_string());
    let rest = last(resume(&id), seen).send().await.unwrap();
    assert_eq!(rest.headers()["x-vercel-ai-ui-message-stream"], "v1");
    let rest = numbered(rest).await;
    let numbers: Vec<_> = rest.iter().map(|(number, _)| *number).collect();
    let expected: Vec<_> = (seen + 1..=seen + rest.len()).collect();
    assert_eq!(numbers, expected, "rising, without a gap");
    assert_eq!(rest.last().unwrap().1, "[DONE]");
    // Complete now: it can be read again from the start, by its session's name too.
    for name in [id.as_str(), "s"] {
        let whole = numbered(resume(name).send().await.unwrap()).await;
        assert_eq!(text(&whole), TEXT);
        assert_eq!(whole[seen..], rest[..]);
    }
    // It was finished and is remembered although its first reader left.
    assert_eq!(server.session("s").await["messages"][1]["text"], TEXT);
    // There is nothing after the end, nothing of others, nothing that never was.
    let end = seen + rest.len();
    for (nothing, seen) in [(id.as_str(), end), ("resp_0", 0), ("other", 0)] {
        let answer = last(resume(nothing), seen).send().await.unwrap();
        assert_eq!(answer.status(), 204, "{nothing}");
    }
    let other = resume(&format!("{id}?session_id=other")).send().await;
    assert_eq!(other.unwrap().status(), 204);
    let wrong = resume(&id)
        .header("last-event-id", "x")
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), 400);
    // A forgotten session takes its answers with it.
    let url = format!("{}/sessions/s", server.base);
    assert_eq!(
        server.client.delete(url).send().await.unwrap().status(),
        204
    );
    assert_eq!(resume(&id).send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn a_kept_answer_belongs_to_its_tenant() {
    let entry = |tenant: &str, key: &str| {
        let digest = Digest::of(key);
        format!("{{ tenant = \"{tenant}\", sha256 = \"{digest}\" }}")
    };
    let keys = format!("server.keys=[{}, {}]", entry("a", "one"), entry("b", "two"));
    let server = Server::start(&["engine.kind=scripted", &keys]).await;
    let post = server.client.post(format!("{}/chat/stream", server.base));
    let asked = post
        .bearer_auth("one")
        .json(&ask("s"))
        .send()
        .await
        .unwrap();
    let start: Value = serde_json::from_str(&numbered(asked).await[0].1).unwrap();
    let id = start["messageId"].as_str().unwrap().to_owned();
    for name in [id.as_str(), "s"] {
        let get = |key: &str| {
            let url = format!("{}/chat/stream/{name}", server.base);
            server.client.get(url).bearer_auth(key).send()
        };
        assert_eq!(get("two").await.unwrap().status(), 204, "{name}");
        assert_eq!(get("one").await.unwrap().status(), 200, "{name}");
        let url = format!("{}/chat/stream/{name}", server.base);
        let stop = server.client.delete(url).bearer_auth("two").send();
        assert_eq!(stop.await.unwrap().status(), 404);
    }
}

#[tokio::test]
async fn who_does_not_come_back_frees_the_slot() {
    let sets = [
        SLOW.as_slice(),
        &["engine.script.token=300ms", "server.resume=400ms"],
    ]
    .concat();
    let server = Server::start(&sets).await;
    let mut lost = server.post("/chat/stream", ask("s")).await;
    let (id, _) = begin(&mut lost).await;
    drop(lost);
    server
        .until("the slot is free", async |s| s.idle_slots().await == 4)
        .await;
    assert!(totals(&server).await < 12, "it was cut short");
    let url = format!("{}/sessions/s", server.base);
    assert_eq!(server.client.get(url).send().await.unwrap().status(), 404);
    let url = format!("{}/chat/stream/{id}", server.base);
    let frames = numbered(server.client.get(url).send().await.unwrap()).await;
    assert!(
        frames.iter().any(|(_, data)| data.contains("\"abort\"")),
        "{frames:?}"
    );
}

#[tokio::test]
async fn stop_ends_the_work_and_tells_whoever_reads() {
    let sets = [SLOW.as_slice(), &["engine.script.token=300ms"]].concat();
    let server = Server::start(&sets).await;
    let mut reading = server.post("/chat/stream", ask("s")).await;
    let (id, _) = begin(&mut reading).await;
    let url = format!("{}/chat/stream/{id}", server.base);
    assert_eq!(
        server.client.delete(url).send().await.unwrap().status(),
        204
    );
    let rest = reading.text().await.unwrap();
    assert!(
        rest.contains("\"abort\"") && rest.contains("[DONE]"),
        "{rest}"
    );
    server
        .until("the slot is free", async |s| s.idle_slots().await == 4)
        .await;
    assert!(totals(&server).await < 12);
}

/// A client of OpenAI's knows no word for an answer that was stopped: it must not pass for a whole one.
#[tokio::test]
async fn a_stopped_answer_of_v1_ends_with_an_error() {
    let sets = [SLOW.as_slice(), &["engine.script.token=300ms"]].concat();
    let server = Server::start(&sets).await;
    let ask = async |stream: bool| {
        let body = json!({ "messages": [{ "role": "user", "content": "q" }], "stream": stream });
        let asked = server
            .client
            .post(format!("{}/v1/chat/completions", server.base));
        let key = format!("stream {stream}");
        asked
            .header("idempotency-key", key)
            .json(&body)
            .send()
            .await
            .unwrap()
    };
    let mut reading = ask(true).await;
    let mut said = String::new();
    while !said.contains("\"content\":\"T") {
        let chunk = reading.chunk().await.unwrap().unwrap();
        said.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let id = said.split("\"id\":\"").nth(1).unwrap();
    let id = id.split('"').next().unwrap();
    let stop = server
        .client
        .delete(format!("{}/chat/stream/{id}", server.base));
    assert_eq!(stop.send().await.unwrap().status(), 204);
    // Whoever reads, and whoever comes again.
    for rest in [
        reading.text().await.unwrap(),
        ask(true).await.text().await.unwrap(),
    ] {
        assert!(rest.contains("\"code\":\"answer_stopped\""), "{rest}");
        assert!(!rest.contains("\"finish_reason\":\"stop\""), "{rest}");
    }
}

#[tokio::test]
async fn the_same_key_never_runs_a_prompt_twice() {
    let server = Server::start(&SLOW).await;
    let post = async |route: &str, key: &str, body: Value| {
        let asked = server.client.post(format!("{}{route}", server.base));
        asked
            .header("idempotency-key", key)
            .json(&body)
            .send()
            .await
            .unwrap()
    };
    let body = json!({ "message": "q", "session_id": "s", "seed": "random" });
    // The first attempt loses its connection, the second comes while it runs, the third after.
    let mut first = post("/chat/stream", "k", body.clone()).await;
    let (id, _) = begin(&mut first).await;
    drop(first);
    let second = numbered(post("/chat/stream", "k", body.clone()).await).await;
    let third = numbered(post("/chat/stream", "k", body.clone()).await).await;
    assert_eq!(second, third);
    assert!(second[0].1.contains(&id), "the same answer");
    assert_eq!(text(&second), TEXT);
    assert_eq!(totals(&server).await, 12, "twelve words, once");
    let session = server.session("s").await;
    assert_eq!(
        session["messages"].as_array().unwrap().len(),
        2,
        "{session}"
    );
    // Documents too, even when both come at once, and chunks.
    let whole = json!({ "message": "w", "seed": "random" });
    let (a, b) = tokio::join!(post("/chat", "w", whole.clone()), post("/chat", "w", whole));
    let (a, b): (Value, Value) = (a.json().await.unwrap(), b.json().await.unwrap());
    assert_eq!((&a["id"], &a["text"]), (&b["id"], &b["text"]));
    let chunks = json!({ "messages": [{ "role": "user", "content": "c" }], "stream": true });
    let a = post("/v1/chat/completions", "c", chunks.clone())
        .await
        .text()
        .await
        .unwrap();
    let b = post("/v1/chat/completions", "c", chunks)
        .await
        .text()
        .await
        .unwrap();
    assert_eq!(a, b);
    assert_eq!(totals(&server).await, 36);
    // Another request under the same key is a mistake.
    for (route, body) in [
        (
            "/chat/stream",
            json!({ "message": "other", "session_id": "s" }),
        ),
        ("/chat", body),
    ] {
        let reused = post(route, "k", body).await;
        assert_eq!(reused.status(), 422);
        let error: Value = reused.json().await.unwrap();
        assert_eq!(error["error"]["code"], "idempotency_key_reused");
    }
    let wrong = post("/chat", &"k".repeat(256), json!({ "message": "q" })).await;
    assert_eq!(wrong.status(), 400);
}

#[tokio::test]
async fn a_refused_attempt_does_not_use_the_key_up() {
    let sets = [SLOW.as_slice(), &["engine.slots=1", "engine.queue=0"]].concat();
    let server = Server::start(&sets).await;
    let running = Frames::of(server.post("/chat/stream", json!({ "message": "a" })).await);
    let post = async || {
        let asked = server.client.post(format!("{}/chat", server.base));
        let asked = asked
            .header("idempotency-key", "k")
            .json(&json!({ "message": "b" }));
        asked.send().await.unwrap().status().as_u16()
    };
    assert_eq!(post().await, 429);
    assert!(!told(&running.rest().await).0.is_empty());
    server
        .until("a retry is answered", async |_| post().await == 200)
        .await;
}
