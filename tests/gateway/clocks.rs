//! What ends a wait: clients that are slow to ask or to read, and how long a silence may be.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::server::{Frames, Server};

async fn connect(server: &Server) -> TcpStream {
    let address = server.base.trim_start_matches("http://");
    TcpStream::connect(address).await.unwrap()
}

/// Asks for the health on this connection, which stays open.
async fn ask(stream: &mut TcpStream) {
    stream
        .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer).await.unwrap();
    let answer = String::from_utf8_lossy(&buffer[..read]);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
}

/// Begins a request and goes on with it byte by byte: how long the server bears it.
async fn dawdle(mut stream: TcpStream) -> Duration {
    let begun = Instant::now();
    stream
        .write_all(b"GET /health HTTP/1.1\r\nx-slow: ")
        .await
        .unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let writes = async {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = writes => {}
        // An end or a reset: both are a closed connection.
        _ = reader.read_to_end(&mut rest) => {}
    }
    assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    begun.elapsed()
}

#[tokio::test]
async fn a_slow_head_is_cut_off_where_an_idle_connection_is_not() {
    let sets = [
        "engine.kind=scripted",
        "server.head_timeout=400ms",
        "server.keep_alive=20s",
    ];
    let server = Server::start(&sets).await;
    let mut kept = connect(&server).await;
    ask(&mut kept).await;
    let bounds = Duration::from_millis(390)..Duration::from_secs(10);
    let fresh = dawdle(connect(&server).await).await;
    assert!(
        bounds.contains(&fresh),
        "a first head was borne for {fresh:?}"
    );
    // Idle for longer than a head may take, as these two were, is no reason to be closed.
    tokio::time::sleep(Duration::from_millis(600)).await;
    ask(&mut kept).await;
    let later = dawdle(kept).await;
    assert!(
        bounds.contains(&later),
        "a later head was borne for {later:?}"
    );
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = Server::start(&["engine.kind=scripted", "server.max_head=8KiB"]).await;
    let status = async |bytes: usize| {
        let mut stream = connect(&server).await;
        let long = "x".repeat(bytes);
        let head = format!(
            "GET /health HTTP/1.1\r\nhost: x\r\nx-long: {long}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert_eq!(status(4000).await, "HTTP/1.1 200");
    assert_eq!(status(9000).await, "HTTP/1.1 431");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_408() {
    let sets = ["engine.kind=scripted", "server.body_timeout=300ms"];
    let server = Server::start(&sets).await;
    let mut stream = connect(&server).await;
    let head = "POST /chat HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 100\r\nconnection: close\r\n\r\n{\"message\":";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    for words in ["server.body_timeout", "300ms", "slow_body"] {
        assert!(answer.contains(words), "{answer}");
    }
}

#[tokio::test]
async fn a_silent_stream_sends_comments_in_the_queue_and_between_words() {
    let sets = [
        "engine.kind=scripted",
        "engine.slots=1",
        "engine.script.text=one two",
        "engine.script.token=700ms",
        "server.heartbeat=100ms",
    ];
    let server = Server::start(&sets).await;
    let ask = |name: &str| json!({ "message": name, "session_id": name });
    let mut first = Frames::of(server.post("/chat/stream", ask("first")).await);
    while !first.next().await.unwrap().contains("text-delta") {}
    let second = server.post("/chat/stream", ask("second")).await;
    let text = second.text().await.unwrap();
    let (queue, words) = text.split_once("text-delta").unwrap();
    assert!(queue.contains("\"queued\""), "{text}");
    for (place, part) in [("in the queue", queue), ("between words", words)] {
        let comments = part
            .split("\n\n")
            .filter(|frame| *frame == ": alive")
            .count();
        assert!(comments >= 2, "{comments} comments {place}: {text}");
    }
    first.rest().await;
}

/// Nine megabytes in words of eight kilobytes: more than the kernel keeps for a reader.
fn wordy(policies: &std::path::Path) {
    let mut text = String::new();
    for n in 0..1200 {
        write!(text, "{n:x>8191} ").unwrap();
    }
    let file = format!("[engine.script]\ntext = \"{text}\"\n");
    std::fs::write(policies.with_file_name("stent.toml"), file).unwrap();
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_off_alone_and_told_why() {
    let sets = [
        "engine.kind=scripted",
        "engine.max_tokens=1500",
        "server.reader_timeout=400ms",
        "cache.store=off",
    ];
    let server = Server::launch(&sets, wordy);
    server
        .until("it is ready", async |s| {
            let ready = s.client.get(format!("{}/ready", s.base)).send().await;
            ready.is_ok_and(|response| response.status() == 200)
        })
        .await;
    let mut slow = connect(&server).await;
    let body = json!({ "message": "a", "session_id": "slow" }).to_string();
    let head = format!(
        "POST /chat/stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    server
        .until("the slow reader is given up", async |s| {
            s.log().contains("slow_reader")
        })
        .await;
    let body = json!({ "message": "b", "session_id": "other", "max_tokens": 3 });
    let other = server.post("/chat", body).await;
    assert_eq!(other.status(), 200);
    let other: Value = other.json().await.unwrap();
    assert_eq!(other["stent"]["tokens"], 3);
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).await.unwrap();
    let end = String::from_utf8_lossy(&answer[answer.len().saturating_sub(600)..]).into_owned();
    assert!(
        end.contains("the client read too slowly: 256 parts"),
        "{end}"
    );
    assert!(end.contains("data: [DONE]"), "{end}");
    assert!(answer.len() < 9 << 20, "it was cut off: {}", answer.len());
    let url = format!("{}/sessions/slow", server.base);
    assert_eq!(server.client.get(url).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn health_is_told_at_once_in_the_middle_of_a_prefill() {
    let sets = ["engine.kind=scripted", "engine.script.prefill=50ms"];
    let server = Server::start(&sets).await;
    // A token a letter, half a minute.
    let body = json!({ "message": "x".repeat(600), "session_id": "s" });
    let long = server.post("/chat/stream", body).await;
    assert_eq!(long.status(), 200);
    server
        .until("a prompt is read", async |s| {
            let status = s.admin("/admin/slots").await;
            let slots = status["slots"].as_array().unwrap();
            slots.iter().any(|slot| slot["state"] == "prefill")
        })
        .await;
    let asked = Instant::now();
    let response = server
        .client
        .get(format!("{}/health", server.base))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let health: Value = response.json().await.unwrap();
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    assert_eq!(health["status"], "ok");
    assert_eq!(health["model"], "scripted");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        health["uptime_s"].as_u64().is_some_and(|s| s < 60),
        "{health}"
    );
    assert_eq!(server.idle_slots().await, 3, "it still reads");
    drop(long);
}
