//! Two gateways on one Redis, and Redis in trouble in the middle of load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::redis::RedisServer;
use crate::support::server::Server;

async fn host(redis: &RedisServer, more: &[&str]) -> Server {
    let store = format!("sessions.store={}", redis.url());
    // A busy machine is no trouble of Redis; the trouble of these tests lasts.
    let own = [
        "engine.kind=scripted",
        "sessions.timeout=1s",
        store.as_str(),
    ];
    let sets = [own.as_slice(), more].concat();
    Server::start(&sets).await
}

async fn ready(server: &Server) -> (u16, Value) {
    let answer = server
        .client
        .get(format!("{}/ready", server.base))
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn questions(session: &Value) -> Vec<String> {
    let messages = session["messages"].as_array().cloned().unwrap_or_default();
    let asked = messages.iter().filter(|m| m["role"] == "user");
    asked
        .map(|m| m["text"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_conversation_hops_between_hosts_and_only_one_writes_at_a_time() {
    let redis = RedisServer::start();
    let slow = ["engine.script.token=20ms", "engine.seed=random"];
    let (a, b) = tokio::join!(host(&redis, &slow), host(&redis, &slow));
    a.chat("one", "s").await;
    b.chat("two", "s").await;
    a.chat("three", "s").await;
    assert_eq!(questions(&b.session("s").await), ["one", "two", "three"]);
    let others = tokio::join!(a.chat("four", "s"), b.chat("five", "s"), a.chat("six", "s"));
    drop(others);
    let asked = questions(&a.session("s").await);
    assert_eq!(asked.len(), 6, "{asked:?}");
    let numbers: Vec<_> = a.session("s").await["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["exchange"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    let gone = b
        .client
        .delete(format!("{}/sessions/s", b.base))
        .send()
        .await
        .unwrap();
    assert_eq!(gone.status(), 204);
    let gone = a
        .client
        .get(format!("{}/sessions/s", a.base))
        .send()
        .await
        .unwrap();
    assert_eq!(gone.status(), 404);
}

#[tokio::test]
async fn a_host_that_waits_for_another_ones_session_may_be_told_to_refuse() {
    let redis = RedisServer::start();
    let a = host(&redis, &["engine.script.token=100ms"]).await;
    let b = host(&redis, &["sessions.on_busy=refuse"]).await;
    let body = json!({ "message": "x", "session_id": "s" });
    let first = a.post("/chat/stream", body.clone()).await;
    assert_eq!(first.status(), 200);
    assert_eq!(b.post("/chat", body.clone()).await.status(), 409);
    drop(first);
    b.until("the lease is given back", async |b| {
        b.post("/chat", body.clone()).await.status() == 200
    })
    .await;
}

fn answers(session: &Value) -> Vec<String> {
    let messages = session["messages"].as_array().cloned().unwrap_or_default();
    let said = messages.iter().filter(|m| m["role"] == "assistant");
    said.map(|m| m["text"].as_str().unwrap().to_owned())
        .collect()
}

/// Asked again while Redis is away, of what Redis has and of what only this host has.
#[tokio::test]
async fn with_local_an_answer_is_replaced_too() {
    let mut redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let server = host(
        &redis,
        &[
            "sessions.on_store_failure=local",
            "sessions.timeout=200ms",
            "engine.script.text=a b c d e f g h",
        ],
    )
    .await;
    let ask = async |message: &str, trigger: &str, tokens: u32| {
        let body = json!({ "message": message, "session_id": "s", "trigger": trigger,
            "max_tokens": tokens });
        assert_eq!(server.post("/chat", body).await.status(), 200);
    };
    ask("one", "submit-message", 1).await;
    ask("two", "submit-message", 2).await;
    let before = answers(&server.session("s").await);
    redis.kill();
    ask("two", "regenerate-message", 3).await;
    ask("three", "submit-message", 4).await;
    ask("three", "regenerate-message", 5).await;
    let local = server.session("s").await;
    assert_eq!(questions(&local), ["one", "two", "three"]);
    let said = answers(&local);
    assert_eq!(said[0], before[0]);
    assert!(said[1].len() > before[1].len() && said[2].len() > said[1].len());
    redis.restart();
    let other = host(&redis, &[]).await;
    other
        .until("it was handed over", async |s| {
            answers(&s.session("s").await) == said
        })
        .await;
    assert_eq!(
        questions(&other.session("s").await),
        ["one", "two", "three"]
    );
}

/// Asks until told to stop; how often it was served, and refused with 503 or an error frame.
async fn load(server: Arc<Server>, stop: Arc<AtomicBool>, n: usize) -> (usize, usize) {
    let (mut served, mut refused) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let body = json!({ "message": format!("{served}"), "session_id": format!("load{n}") });
        let answer = server.post("/chat", body).await;
        match answer.status().as_u16() {
            200 => served += 1,
            503 => refused += 1,
            other => panic!("{other} {}", answer.text().await.unwrap()),
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    (served, refused)
}

#[tokio::test]
async fn with_refuse_trouble_is_told_and_ends_by_itself() {
    let mut redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let server = Arc::new(host(&redis, &["sessions.timeout=200ms"]).await);
    server.chat("before", "s").await;
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..3)
        .map(|n| tokio::spawn(load(Arc::clone(&server), Arc::clone(&stop), n)))
        .collect();
    for trouble in ["paused", "killed"] {
        match trouble {
            "paused" => redis.pause(),
            _ => redis.kill(),
        }
        server
            .until("not ready", async |s| ready(s).await.0 == 503)
            .await;
        let (_, told) = ready(&server).await;
        let reason = told["reason"].as_str().unwrap();
        assert!(
            reason.starts_with("sessions: Redis at redis://127.0.0.1:"),
            "{reason}"
        );
        let body = json!({ "message": "x", "session_id": "s" });
        let refused = server.post("/chat", body).await;
        assert_eq!(refused.status(), 503);
        let refused: Value = refused.json().await.unwrap();
        assert_eq!(refused["error"]["code"], "session_store");
        match trouble {
            "paused" => redis.resume(),
            _ => redis.restart(),
        }
        server
            .until("ready again", async |s| ready(s).await.0 == 200)
            .await;
    }
    server.chat("after", "s").await;
    stop.store(true, Ordering::Relaxed);
    for (n, task) in tasks.into_iter().enumerate() {
        let (served, refused) = task.await.unwrap();
        assert!(served > 0 && refused > 0, "{served} {refused}");
        // What was refused may have been stored; what was served was.
        let asked = questions(&server.session(&format!("load{n}")).await).len();
        assert!(asked >= served.min(200), "{asked} of {served}");
    }
    assert_eq!(questions(&server.session("s").await), ["before", "after"]);
    assert!(
        server
            .gauge("stent_session_store_total{operation=\"load\",result=\"down\"}")
            .await
            > 0
    );
}

#[tokio::test]
async fn with_local_nobody_notices_and_redis_gets_the_rest_later() {
    let mut redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let sets = ["sessions.on_store_failure=local", "sessions.timeout=200ms"];
    let server = host(&redis, &sets).await;
    server.chat("one", "s").await;
    redis.kill();
    let failed = AtomicUsize::new(0);
    for text in ["two", "three"] {
        let body = json!({ "message": text, "session_id": "s" });
        if server.post("/chat", body).await.status() != 200 {
            failed.fetch_add(1, Ordering::Relaxed);
        }
    }
    assert_eq!(failed.into_inner(), 0);
    assert_eq!(
        questions(&server.session("s").await),
        ["one", "two", "three"]
    );
    server
        .until("the trouble is told", async |s| {
            let (status, told) = ready(s).await;
            status == 200
                && told["degraded"]["sessions"]
                    .as_str()
                    .is_some_and(|t| t.contains("Redis"))
        })
        .await;
    assert!(
        server
            .gauge("stent_session_store_total{operation=\"append\",result=\"local\"}")
            .await
            >= 2
    );
    redis.restart();
    let other = host(&redis, &[]).await;
    other
        .until("it was handed over", async |s| {
            questions(&s.session("s").await).len() == 3
        })
        .await;
    assert_eq!(
        questions(&other.session("s").await),
        ["one", "two", "three"]
    );
    other.chat("four", "s").await;
    server
        .until("ready", async |s| {
            ready(s).await.1 == json!({ "status": "ready" })
        })
        .await;
    server.chat("five", "s").await;
    assert_eq!(
        questions(&other.session("s").await),
        ["one", "two", "three", "four", "five"]
    );
}

#[tokio::test]
async fn after_a_flush_conversations_begin_anew() {
    let redis = RedisServer::start();
    let server = host(&redis, &["engine.script.token=30ms"]).await;
    server.chat("one", "s").await;
    let body = json!({ "message": "two", "session_id": "s" });
    let running = server.post("/chat/stream", body).await;
    assert_eq!(redis.ask(&["flushall"]), "OK");
    let rest = crate::support::server::Frames::of(running).rest().await;
    assert!(
        rest.iter().any(|frame| frame["type"] == "finish"),
        "{rest:?}"
    );
    assert_eq!(questions(&server.session("s").await), ["two"]);
    assert_eq!(
        server
            .gauge("stent_session_store_total{operation=\"append\",result=\"anew\"}")
            .await,
        1
    );
    server.chat("three", "s").await;
    assert_eq!(questions(&server.session("s").await), ["two", "three"]);
}
