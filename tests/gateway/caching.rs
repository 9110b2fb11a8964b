//! What the answer cache keeps, for whom, and until when.

use std::fs;

use serde_json::{Value, json};

use crate::policy::guest::{Guest, TRAP, keeper, words};
use crate::support::server::{Frames, Server, told};

/// One answer for all sessions of a tenant.
const TENANT: [&str; 3] = [
    "engine.kind=scripted",
    "policies.cache.scope=tenant",
    "policies.cache.config.scope=tenant",
];

/// Asks in a session of its own; tells whether the answer came from the cache.
async fn is_hit(server: &Server, message: &str) -> bool {
    let body = json!({ "message": message });
    let response = server.post("/chat/stream", body).await;
    assert_eq!(response.status(), 200, "{}", server.log());
    let frames = Frames::of(response).rest().await;
    told(&frames).1["cached"].as_bool().unwrap()
}

async fn configure(server: &Server, hook: &str, config: Value) {
    let url = format!("{}/admin/policies/{hook}/config", server.admin);
    let response = server.client.post(url).json(&config).send().await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
}

/// Drops a file into the folder and waits until it serves.
pub async fn swap(server: &Server, name: &str, component: &[u8]) {
    fs::write(server.policies().join(name), component).unwrap();
    let url = format!("{}/admin/policies/reload", server.admin);
    let list: Value = server
        .client
        .post(url)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let list = list.as_array().unwrap();
    assert!(
        list.iter()
            .any(|p| p["state"] == "live" && p["file"].as_str().is_some_and(|f| f.ends_with(name))),
        "{list:?}"
    );
}

#[tokio::test]
async fn another_config_invalidates_the_answers_that_depended_on_it() {
    let sets = [&TENANT[..], &["policies.filter.bundled=filter-redact"]].concat();
    let server = Server::start(&sets).await;
    assert!(!is_hit(&server, "What is asthma?").await);
    assert!(is_hit(&server, "What is asthma?").await);
    // The prompt is the same to the token: how it was trimmed does not matter any more.
    configure(&server, "trim", json!({ "exchanges": 5 })).await;
    assert!(is_hit(&server, "What is asthma?").await, "trim");
    for (hook, config) in [
        ("prompt", json!({ "system": "Answer." })),
        ("filter", json!({ "disclaimer": "Ask a doctor." })),
        ("cache", json!({ "scope": "tenant", "ttl_seconds": 60 })),
    ] {
        configure(&server, hook, config).await;
        assert!(!is_hit(&server, "What is asthma?").await, "{hook}");
        assert!(is_hit(&server, "What is asthma?").await, "{hook}");
    }
    // Back again: what was kept under that config still holds.
    configure(&server, "filter", json!({})).await;
    configure(&server, "cache", json!({ "scope": "tenant" })).await;
    configure(&server, "prompt", json!({})).await;
    assert!(is_hit(&server, "What is asthma?").await);
}

#[tokio::test]
async fn another_policy_invalidates_the_answers_that_depended_on_it() {
    let server = Server::start(&TENANT).await;
    assert!(!is_hit(&server, "What is gout?").await);
    let allow = words(1024, &[0, 0]) + "(i32.const 1024)";
    swap(&server, "guard.wasm", &Guest::guard("allow", &allow).core()).await;
    swap(&server, "trim.wasm", &keeper("keep")).await;
    assert!(is_hit(&server, "What is gout?").await, "guard and trim");
    let echo = "(i32.store (i32.const 1024) (i32.const 0)) (i32.store (i32.const 1028) (i32.const 0)) \
                (i32.store (i32.const 1032) (local.get $text)) \
                (i32.store (i32.const 1036) (local.get $bytes)) (i32.const 1024)";
    let end = words(1024, &[0, 0, 0]) + "(i32.const 1024)";
    swap(
        &server,
        "filter.wasm",
        &Guest::filter("echo", "", echo, &end).core(),
    )
    .await;
    assert!(!is_hit(&server, "What is gout?").await, "filter");
    assert!(is_hit(&server, "What is gout?").await, "filter");
}

/// A key of the policy's own parts says nothing about the prompt: everything counts.
#[tokio::test]
async fn answers_by_parts_depend_on_all_policies() {
    let sets = [&TENANT[..], &["policies.cache.config.normalise=true"]].concat();
    let server = Server::start(&sets).await;
    assert!(!is_hit(&server, "What is asthma?").await);
    assert!(is_hit(&server, "what is  ASTHMA").await);
    configure(&server, "trim", json!({ "exchanges": 5 })).await;
    assert!(!is_hit(&server, "What is asthma?").await);
    assert!(is_hit(&server, "What is asthma?").await);
}

/// With parts as the key, the seed is not part of the prompt: it counts by itself.
#[tokio::test]
async fn another_seed_asks_for_another_answer_and_a_greedy_one_has_none() {
    let sets = [&TENANT[..], &["policies.cache.config.normalise=true"]].concat();
    let server = Server::start(&sets).await;
    let ask = async |seed: Value, temperature: f32| {
        let body = json!({ "message": "What is gout?", "seed": seed, "temperature": temperature });
        let answer: Value = server.post("/chat", body).await.json().await.unwrap();
        answer["stent"]["cached"].as_bool().unwrap()
    };
    assert!(!ask(json!(1), 0.7).await);
    assert!(!ask(json!(2), 0.7).await);
    assert!(!ask(json!("derived"), 0.7).await);
    assert!(ask(json!(1), 0.7).await);
    assert!(!ask(json!(1), 0.0).await);
    assert!(ask(json!("random"), 0.0).await);
    assert!(!ask(json!("random"), 0.7).await);
}

/// Nothing is admitted from a filter that failed open, nor from an answer that was left.
#[tokio::test]
async fn only_answers_that_ended_as_they_should_are_kept() {
    let sets = [
        &TENANT[..],
        &["engine.script.token=20ms", "policies.breaker.faults=0"],
    ]
    .concat();
    let server = Server::start(&sets).await;
    let body = json!({ "message": "What is a cold?" });
    let mut frames = Frames::of(server.post("/chat/stream", body).await);
    while !frames.next().await.unwrap().contains("text-delta") {}
    drop(frames);
    server
        .until("the slot is free", async |s| s.idle_slots().await == 4)
        .await;
    assert!(!is_hit(&server, "What is a cold?").await, "left half-way");
    assert!(is_hit(&server, "What is a cold?").await);
    swap(
        &server,
        "filter.wasm",
        &Guest::filter("broken", "", TRAP, TRAP).core(),
    )
    .await;
    for _ in 0..2 {
        assert!(!is_hit(&server, "What is a cold?").await, "unfiltered");
    }
    fs::remove_file(server.policies().join("filter.wasm")).unwrap();
}

/// The gauge is read while four clients ask more than fits.
#[tokio::test]
async fn max_bytes_is_kept_while_clients_ask() {
    const LIMIT: u64 = 30_000;
    let limit = format!("cache.max_bytes={LIMIT}");
    let sets = [&TENANT[..], &[limit.as_str()]].concat();
    let server = Server::start(&sets).await;
    let mut asked = Vec::new();
    for client in 0..4 {
        let server = &server;
        asked.push(async move {
            for n in 0..40 {
                server
                    .chat(
                        &format!("Question {n} of {client}"),
                        &format!("s-{client}-{n}"),
                    )
                    .await;
                let held = server.gauge("stent_cache_size_bytes").await;
                assert!(held <= LIMIT, "{held} bytes");
            }
        });
    }
    futures::future::join_all(asked).await;
    let held = server.gauge("stent_cache_size_bytes").await;
    assert!(held > LIMIT / 2, "it is full: {held} bytes");
}
