//! Redis slow, down or flushed in the middle of load: nobody is refused, nobody waits for long, it is
//! told, and it ends by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stent::trace::Protocol;

use super::hosts::{counted, ready};
use crate::support::otlp::Receiver;
use crate::support::redis::RedisServer;
use crate::support::server::{Frames, Server, told};

async fn host(redis: &RedisServer, more: &[&str]) -> Server {
    let store = format!("cache.store={}", redis.url());
    let own = [
        "engine.kind=scripted",
        "policies.cache.scope=tenant",
        "policies.cache.config.scope=tenant",
        "sessions.store=memory",
        &store,
    ];
    Server::start(&[&own[..], more].concat()).await
}

async fn is_hit(server: &Server, message: &str) -> bool {
    let response = server
        .post("/chat/stream", json!({ "message": message }))
        .await;
    assert_eq!(response.status(), 200, "{}", server.log());
    let (text, summary) = told(&Frames::of(response).rest().await);
    assert!(text.ends_with("everyone."), "{text}");
    summary["cached"].as_bool().unwrap()
}

async fn degraded(server: &Server) -> Option<String> {
    let (status, told) = ready(server).await;
    assert_eq!(status, 200, "a cache is no reason to be avoided: {told}");
    told["degraded"]["cache"].as_str().map(str::to_owned)
}

/// Asks until told to stop; the longest that anybody waited.
async fn load(server: Arc<Server>, stop: Arc<AtomicBool>, client: usize) -> (usize, Duration) {
    let (mut asked, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        // Half of them were asked before.
        is_hit(&server, &format!("Question {} of {client}", asked / 2)).await;
        longest = longest.max(start.elapsed());
        asked += 1;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    (asked, longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_refused_while_redis_is_paused_killed_or_flushed_and_it_ends_by_itself() {
    let mut redis = RedisServer::start();
    let server = Arc::new(host(&redis, &[]).await);
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..3)
        .map(|n| tokio::spawn(load(Arc::clone(&server), Arc::clone(&stop), n)))
        .collect();
    for trouble in ["paused", "killed", "flushed"] {
        match trouble {
            "paused" => redis.pause(),
            "killed" => redis.kill(),
            _ => drop(redis.ask(&["flushall"])),
        }
        if trouble != "flushed" {
            server
                .until("it is told", async |s| degraded(s).await.is_some())
                .await;
            let told = degraded(&server).await.unwrap();
            assert!(told.starts_with("Redis at redis://127.0.0.1:"), "{told}");
            server
                .until("nobody waits any more", async |s| {
                    counted(s, "lookup", "down").await > 0
                })
                .await;
        }
        match trouble {
            "paused" => redis.resume(),
            "killed" => redis.restart(),
            _ => {}
        }
        server
            .until("it is over", async |s| degraded(s).await.is_none())
            .await;
        server
            .until("answers are kept again", async |s| is_hit(s, trouble).await)
            .await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        let (asked, longest) = task.await.unwrap();
        println!("{asked} asked, the longest took {longest:?}");
        assert!(asked > 20, "{asked}");
    }
    let slow = counted(&server, "lookup", "slow").await;
    let lost = counted(&server, "lookup", "lost").await + counted(&server, "store", "lost").await;
    assert!(slow + lost > 0, "the trouble was counted");
    let metrics = server.metrics().await;
    assert!(!metrics.contains("result=\"bypass\""), "each was looked up");
}

/// One after the other, so that each pays only for itself.
#[tokio::test]
async fn a_slow_redis_is_a_miss_after_its_timeout_and_soon_costs_nothing() {
    let redis = RedisServer::start();
    let server = host(&redis, &[]).await;
    for n in 0..20 {
        is_hit(&server, &format!("warm {n}")).await;
    }
    redis.pause();
    let mut times = Vec::new();
    for n in 0..40 {
        let start = Instant::now();
        assert!(!is_hit(&server, &format!("warm {n}")).await, "{n}");
        times.push(start.elapsed());
    }
    redis.resume();
    let waited = times
        .iter()
        .filter(|time| **time >= Duration::from_millis(50))
        .count();
    println!("{times:?}");
    let slow = counted(&server, "lookup", "slow").await;
    assert!(
        (1..=3).contains(&slow),
        "{slow} requests waited, then the server counts as down"
    );
    assert_eq!(counted(&server, "lookup", "down").await, 40 - slow);
    // The runs of others and the answer's storing are not tried where the lookup failed.
    for operation in ["board", "store"] {
        assert_eq!(counted(&server, operation, "slow").await, 0, "{operation}");
        assert_eq!(counted(&server, operation, "down").await, 0, "{operation}");
    }
    // A busy machine may add pauses of its own to some.
    assert!(waited <= slow as usize + 8, "{waited} waited: {times:?}");
    times.sort_unstable();
    assert!(times[20] < Duration::from_millis(50), "{times:?}");
}

#[tokio::test]
async fn trouble_is_in_the_trace_of_the_request_that_met_it() {
    let collector = Receiver::start(Protocol::Grpc);
    let redis = RedisServer::start();
    let otlp = format!("telemetry.otlp={}", collector.endpoint());
    let server = host(&redis, &[&otlp]).await;
    assert!(!is_hit(&server, "What is gout?").await);
    redis.pause();
    let body = json!({ "message": "What is gout?" });
    let frames = Frames::of(server.post("/chat/stream", body).await)
        .rest()
        .await;
    redis.resume();
    let trace = told(&frames).1["trace_id"].as_str().unwrap().to_owned();
    let root = collector.server(&trace);
    let spans = collector.trace(&trace, 8);
    let lookup = spans
        .iter()
        .find(|span| span.name == "cache.lookup")
        .unwrap();
    assert_eq!(lookup.told("error.type"), "slow");
    assert_eq!(lookup.told("stent.cache.store"), "redis");
    assert_eq!(lookup.told("stent.cache.result"), "miss");
    assert!(lookup.failed && !root.failed, "the request itself is fine");
}

/// One server for everything, and sessions that go on by themselves.
#[tokio::test]
async fn sessions_and_answers_fare_each_by_their_own_rule() {
    let mut redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let sessions = format!("sessions.store={}", redis.url());
    let sets = [
        sessions.as_str(),
        "sessions.on_store_failure=local",
        "sessions.timeout=200ms",
    ];
    let server = host(&redis, &sets).await;
    server.chat("one", "s").await;
    redis.kill();
    server.chat("two", "s").await;
    server
        .until("both are told", async |s| {
            let told: Value = ready(s).await.1;
            told["degraded"]["cache"].is_string() && told["degraded"]["sessions"].is_string()
        })
        .await;
    server.chat("three", "s").await;
    redis.restart();
    server
        .until("both are over", async |s| {
            ready(s).await.1 == json!({ "status": "ready" })
        })
        .await;
    server.chat("four", "s").await;
    let messages = server.session("s").await["messages"].clone();
    assert_eq!(messages.as_array().unwrap().len(), 8);
}
