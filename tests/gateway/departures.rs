//! Clients that leave: at every stage the work ends, the slot and its cells are free again, and
//! nobody else notices.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::server::{Frames, Server, told};

const QUIET: [&str; 2] = ["engine.kind=scripted", "cache.store=off"];

/// A question without a session: nothing of it stays in the KV cache.
fn stateless(text: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": text }], "seed": 1 })
}

/// Sends a request and nothing more; the client leaves when this is dropped.
async fn send(server: &Server, route: &str, body: &Value) -> TcpStream {
    let body = body.to_string();
    let mut stream = TcpStream::connect(server.base.trim_start_matches("http://"))
        .await
        .unwrap();
    let head = format!(
        "POST {route} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn states(server: &Server, state: &str) -> usize {
    let status = server.admin("/admin/slots").await;
    let slots = status["slots"].as_array().unwrap();
    slots.iter().filter(|slot| slot["state"] == state).count()
}

/// What the engine has done so far: `generated` or `prefilled` tokens.
async fn total(server: &Server, what: &str) -> u64 {
    let status = server.admin("/admin/slots").await;
    status["totals"][what].as_u64().unwrap()
}

/// Starts a server, and counts the cells that stay used: the layout's own first tokens, which all
/// prompts share.
pub async fn start(sets: &[&str]) -> (Server, u64) {
    let server = Server::start(&[QUIET.as_slice(), sets].concat()).await;
    let mut body = stateless("x");
    body["max_tokens"] = json!(1);
    assert_eq!(server.post(ROUTE, body).await.status(), 200);
    server
        .until("the slot is free", async |s| {
            states(s, "decode").await + states(s, "prefill").await == 0
        })
        .await;
    let cells = server.admin("/admin/slots").await["kv_cells_used"]
        .as_u64()
        .unwrap();
    (server, cells)
}

/// All slots idle, nobody waiting, no cell used beside those that were before.
pub async fn all_is_free(server: &Server, cells: u64) {
    server
        .until("slots, queue and cells are free", async |s| {
            let status = s.admin("/admin/slots").await;
            let slots = status["slots"].as_array().unwrap();
            slots.iter().all(|slot| slot["state"] == "idle")
                && status["queued"] == 0
                && status["kv_cells_used"].as_u64().unwrap() <= cells
        })
        .await;
}

const ROUTE: &str = "/v1/chat/completions";

/// The two ways of asking for an answer.
fn ways(text: &str) -> [Value; 2] {
    let whole = stateless(text);
    let mut stream = whole.clone();
    stream["stream"] = json!(true);
    [whole, stream]
}

#[tokio::test]
async fn before_admission() {
    let (server, cells) = start(&["engine.script.token=50ms"]).await;
    let asked = async || {
        let metrics = server.metrics().await;
        // That a body broke off may be counted; an answer to it may not.
        let lines = metrics.lines().filter(|l| {
            l.starts_with("stent_requests_total{") && !l.contains(r#"outcome="error""#)
        });
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = asked().await;
    // Half a body, then nobody.
    let body = stateless("q").to_string();
    let mut stream = TcpStream::connect(server.base.trim_start_matches("http://"))
        .await
        .unwrap();
    let head = format!(
        "POST {ROUTE} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
        body.len(),
        &body[..9]
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    assert_eq!(asked().await, before, "half a body was answered");
    // Whole requests whose clients leave at once, at whatever stage that meets them.
    for n in 0..40 {
        for body in ways(&format!("q{n}")) {
            drop(send(&server, ROUTE, &body).await);
        }
    }
    all_is_free(&server, cells).await;
    let said = total(&server, "generated").await;
    assert!(said < 480, "eighty answers of twelve words: {said}");
    server.chat("still there?", "s").await;
}

#[tokio::test]
async fn in_the_queue() {
    let (server, cells) = start(&["engine.slots=1", "engine.script.token=200ms"]).await;
    let mut body = stateless("first");
    body["stream"] = json!(true);
    let before = total(&server, "generated").await;
    let first = Frames::of(server.post(ROUTE, body).await);
    for body in ways("second") {
        let waits = send(&server, ROUTE, &body).await;
        server
            .until("it waits", async |s| {
                s.admin("/admin/slots").await["queued"] == 1
            })
            .await;
        drop(waits);
        server
            .until("its place is free", async |s| {
                s.admin("/admin/slots").await["queued"] == 0
            })
            .await;
    }
    let frames = first.rest().await;
    assert!(
        frames
            .iter()
            .any(|f| f["choices"][0]["finish_reason"] == "stop"),
        "{frames:?}"
    );
    all_is_free(&server, cells).await;
    let said = total(&server, "generated").await - before;
    assert_eq!(said, 12, "nobody but the first was answered");
}

#[tokio::test]
async fn in_prefill_and_in_decode() {
    let slow = ["engine.script.prefill=20ms", "engine.script.token=200ms"];
    let (server, cells) = start(&slow).await;
    // A token for three letters: twelve seconds of reading.
    for (state, text) in [("prefill", "x".repeat(1800)), ("decode", "q".into())] {
        for body in ways(&text) {
            let (read, said) = (
                total(&server, "prefilled").await,
                total(&server, "generated").await,
            );
            let leaves = send(&server, ROUTE, &body).await;
            server
                .until(state, async |s| states(s, state).await == 1)
                .await;
            drop(leaves);
            all_is_free(&server, cells).await;
            let read = total(&server, "prefilled").await - read;
            let said = total(&server, "generated").await - said;
            assert!(read < 600, "a prompt of six hundred was cut short: {read}");
            assert!(said < 12, "an answer of twelve words was cut short: {said}");
        }
    }
}

#[tokio::test]
async fn from_a_shared_run() {
    // Slow enough that both are there before the first is done, on a busy machine too.
    let slow = ["engine.script.token=500ms"];
    let (server, cells) = start(&slow).await;
    let ask = || {
        let mut body = stateless("same");
        body["stream"] = json!(true);
        server.post(ROUTE, body)
    };
    let begun = async || {
        let mut frames = Frames::of(ask().await);
        while !frames.next().await.unwrap().contains("This") {}
        frames
    };
    let (leader, follower) = (begun().await, begun().await);
    assert_eq!(states(&server, "decode").await, 1, "both share one run");
    // Whoever started it leaves; the other one reads on to the end.
    drop(leader);
    let rest = follower.rest().await;
    let said: String = rest
        .iter()
        .filter_map(|f| f["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert!(said.ends_with("everyone."), "{said}");
    all_is_free(&server, cells).await;
    // All leave: the run ends.
    let before = total(&server, "generated").await;
    let (leader, follower) = (begun().await, begun().await);
    drop(follower);
    drop(leader);
    all_is_free(&server, cells).await;
    let after = total(&server, "generated").await;
    assert!(after - before < 12, "{before} {after}");
}

/// Of a conversation that the server remembers, too: a session's cells may stay, its slot not.
#[tokio::test]
async fn in_a_session() {
    let slow = [
        "engine.script.token=200ms",
        "engine.slots=1",
        "server.heartbeat=100ms",
    ];
    let (server, cells) = start(&slow).await;
    for route in ["/chat", "/chat/stream"] {
        let body = json!({ "message": "q", "session_id": route.replace('/', ".") });
        let leaves = send(&server, route, &body).await;
        server
            .until("it runs", async |s| states(s, "decode").await == 1)
            .await;
        drop(leaves);
        server
            .until("the slot is free", async |s| s.idle_slots().await == 1)
            .await;
        let url = format!("{}/sessions/{}", server.base, route.replace('/', "."));
        assert_eq!(server.client.get(&url).send().await.unwrap().status(), 404);
        server.client.delete(&url).send().await.unwrap();
    }
    all_is_free(&server, cells).await;
    let body = json!({ "message": "q", "session_id": "stays" });
    let stays = Frames::of(server.post("/chat/stream", body).await);
    let stays = tokio::time::timeout(Duration::from_secs(60), stays.rest()).await;
    assert!(told(&stays.unwrap()).0.ends_with("everyone."));
}
