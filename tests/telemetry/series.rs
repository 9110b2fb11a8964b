//! What a scrape holds after much has happened, on a real gateway.

use std::collections::BTreeSet;

use serde_json::json;
use stent::access::Digest;

use crate::support::redis::RedisServer;
use crate::support::server::{Frames, Server};

/// Names and labels, without values and exemplars.
fn series(metrics: &str) -> BTreeSet<String> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            line.split(" # ")
                .next()
                .unwrap()
                .rsplit_once(' ')
                .unwrap()
                .0
                .to_owned()
        })
        .collect()
}

/// Sessions, tenants with keys of their own, users and models that clients name: none becomes a
/// series.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_sessions_and_tenants_add_no_series() {
    const MANY: usize = 10_000;
    let sets = [
        "engine.kind=scripted",
        "engine.queue=64",
        "log.filter=warn",
        "engine.script.text=Yes.",
    ];
    let server = Server::launch(&sets, |policies| {
        let key = |n: usize| {
            let digest = Digest::of(&format!("key-{n}"));
            format!("[[server.keys]]\ntenant = \"tenant-{n}\"\nsha256 = \"{digest}\"\n")
        };
        let keys: String = (0..MANY).map(key).collect();
        std::fs::write(policies.with_file_name("stent.toml"), keys).unwrap();
    });
    server
        .until("it is ready", async |s| {
            let asked = s.client.get(format!("{}/ready", s.base)).send().await;
            asked.is_ok_and(|response| response.status() == 200)
        })
        .await;
    let ask = async |n: usize| {
        let message = json!([{ "role": "user", "content": "Hello" }]);
        let body = json!({
            "messages": message, "seed": 1, "session_id": format!("session-{n}"),
            "user": format!("user-{n}"), "model": format!("model-{n}"),
        });
        let request = server
            .client
            .post(format!("{}/v1/chat/completions", server.base));
        let request = request
            .bearer_auth(format!("key-{n}"))
            .header("x-request-id", format!("id-{n}"));
        let response = request.json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.bytes().await.unwrap();
    };
    for n in 0..20 {
        ask(n).await;
    }
    let before = series(&server.metrics().await);
    let next = std::sync::atomic::AtomicUsize::new(20);
    let worker = async || loop {
        let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if n >= MANY {
            return;
        }
        ask(n).await;
    };
    futures::future::join_all((0..16).map(|_| worker())).await;
    let metrics = server.metrics().await;
    // Each tenant's run is its own.
    let counted =
        format!("stent_requests_total{{route=\"/v1/chat/completions\",outcome=\"ok\"}} {MANY}");
    assert!(metrics.contains(&counted), "{metrics}");
    let after = series(&metrics);
    // A hook's first call without a warm instance comes when enough ask at once, early or late.
    let cold = |series: &&String| series.starts_with("stent_policy_cold_calls_total{hook=");
    let more: Vec<_> = after.difference(&before).filter(|s| !cold(s)).collect();
    assert!(more.is_empty(), "{more:#?}");
    assert!(after.len() < 400, "{}", after.len());
    for name in ["session-", "tenant-", "user-", "model-", "id-7"] {
        assert!(!metrics.contains(name), "{name}");
    }
}

/// The time of a request that was not the engine's, which here is nearly all.
#[tokio::test]
async fn the_gateways_own_time_is_a_metric() {
    let server = Server::start(&[
        "engine.kind=scripted",
        "engine.script.token=20ms",
        "cache.store=off",
    ])
    .await;
    server.chat("hello", "one").await;
    let metrics = server.metrics().await;
    let sum = |name: &str| -> f64 {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&format!("{name}_sum{{")));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok())
            .unwrap_or_else(|| panic!("no {name}: {metrics}"))
    };
    let (whole, own) = (
        sum("gen_ai_server_request_duration_seconds"),
        sum("stent_gateway_overhead_seconds"),
    );
    // Twelve steps of 20 ms were the engine's.
    assert!(
        own > 0.0 && whole - own > 0.2,
        "{whole} s, {own} s of them the gateway's"
    );
}

/// However an answer ends, the engine's part of its time is not the gateway's.
#[tokio::test]
async fn the_engines_time_is_not_the_gateways_when_an_answer_breaks_off() {
    let server = Server::start(&[
        "engine.kind=scripted",
        "engine.script.token=300ms",
        "engine.script.text=one two three four five six seven eight nine",
        "engine.stall_after=20s",
        "cache.store=off",
        "server.drain=1s",
    ])
    .await;
    let body = json!({ "message": "hello", "session_id": "one" });
    let mut left = Frames::of(server.post("/chat/stream", body).await);
    while !left.next().await.unwrap().contains("three") {}
    drop(left);
    let own = async |outcome: &str| -> Option<f64> {
        let start = format!("stent_gateway_overhead_seconds_sum{{outcome=\"{outcome}\"}} ");
        let metrics = server.metrics().await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start))?;
        Some(line.parse().unwrap())
    };
    server
        .until("it is told", async |_| own("cancelled").await.is_some())
        .await;
    let own = own("cancelled").await.unwrap();
    // Three steps of 300 ms went by.
    assert!(own < 0.6, "{own} s are said to be the gateway's");
}

/// A history that grows past the context: trimming moves the prompt's beginning.
#[tokio::test]
async fn a_prefix_break_names_the_policy_that_caused_it() {
    let sets = [
        "engine.kind=scripted",
        "engine.n_ctx=400",
        "engine.max_tokens=32",
        "cache.store=off",
    ];
    let server = Server::start(&sets).await;
    let breaks = async |hook: &str| {
        let metrics = server.metrics().await;
        let start = format!("stent_prefix_breaks_total{{hook=\"{hook}\",policy=\"");
        metrics
            .lines()
            .find(|line| line.starts_with(&start))
            .map(str::to_owned)
    };
    server.chat("a first question", "one").await;
    assert_eq!(breaks("trim").await, None);
    for n in 0..12 {
        server
            .chat(
                &format!("question number {n}, with some words in it"),
                "one",
            )
            .await;
    }
    server
        .until("the break is counted", async |_| {
            breaks("trim").await.is_some()
        })
        .await;
    let line = breaks("trim").await.unwrap();
    let policies = server.admin("/admin/policies").await;
    let trim = policies
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["hook"] == "trim")
        .unwrap();
    let digest = trim["sha256"].as_str().unwrap().get(..12).unwrap();
    assert!(line.contains(digest), "{line}: {trim}");
    assert_eq!(breaks("prompt").await, None);
}

/// A way to Redis is told with its state, its uses and how long they took.
#[tokio::test]
async fn the_servers_that_hosts_share_are_told_up_and_down() {
    let mut redis = RedisServer::start();
    let (sessions, cache) = (
        format!("sessions.store={}", redis.url()),
        format!("cache.store={}", redis.url()),
    );
    let sets = [
        "engine.kind=scripted",
        "policies.cache.scope=tenant",
        "policies.cache.config.scope=tenant",
        // A busy machine is no trouble of Redis.
        "sessions.timeout=1s",
        "cache.timeout=1s",
        &sessions,
        &cache,
    ];
    let server = Server::start(&sets).await;
    server.chat("hello", "one").await;
    let told = async |name: &str, store: &str| {
        let metrics = server.metrics().await;
        let start = format!("stent_redis_{name}{{store=\"{store}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
        let value = line.unwrap_or_else(|| panic!("no {start}: {metrics}"));
        value.parse::<f64>().unwrap()
    };
    for store in ["sessions", "cache"] {
        assert_eq!(told("up", store).await, 1.0);
        assert_eq!(told("skipped_total", store).await, 0.0);
        let (uses, seconds) = (
            told("uses_total", store).await,
            told("wait_seconds_total", store).await,
        );
        assert!(uses >= 2.0 && seconds > 0.0, "{uses} {seconds}");
    }
    redis.kill();
    for store in ["sessions", "cache"] {
        server
            .until("it is down", async |_| told("up", store).await == 0.0)
            .await;
        assert!(told("failures_total", store).await >= 3.0);
    }
    let refused = server.post("/chat", json!({ "message": "x", "session_id": "one" }));
    assert_eq!(refused.await.status(), 503);
    assert!(told("skipped_total", "sessions").await >= 1.0);
    redis.restart();
    for store in ["sessions", "cache"] {
        server
            .until("it is back", async |_| told("up", store).await == 1.0)
            .await;
    }
    // Where nothing is shared there is nothing to tell.
    let alone = Server::start(&["engine.kind=scripted"]).await;
    assert!(!alone.metrics().await.contains("stent_redis"));
}
