//! Policies come and go while people are served.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::policy::guest::{Guest, NO, keeper};
use crate::support::server::{Frames, Server, bundled, told};

const SLOW: [&str; 3] = [
    "engine.kind=scripted",
    "engine.script.token=50ms",
    "cache.store=off",
];

async fn live(server: &Server, hook: &str) -> Value {
    let list = server.admin("/admin/policies").await;
    let serving =
        |p: &&Value| p["hook"] == hook && (p["state"] == "live" || p["state"] == "builtin");
    list.as_array()
        .unwrap()
        .iter()
        .find(serving)
        .unwrap()
        .clone()
}

#[tokio::test]
async fn a_swap_during_a_stream_changes_only_what_comes_after() {
    let server = Server::start(&SLOW).await;
    assert_eq!(live(&server, "trim").await["state"], "builtin");
    let body =
        |session: &str| json!({ "message": "hello", "session_id": session, "seed": "random" });
    let mut old = Frames::of(server.post("/chat/stream", body("old")).await);
    while !old.next().await.unwrap().contains("text-delta") {}
    std::fs::write(
        server.policies().join("mine.wasm"),
        bundled("trim-exchanges"),
    )
    .unwrap();
    server
        .until("the file serves", async |s| {
            live(s, "trim").await["state"] == "live"
        })
        .await;
    let new = Frames::of(server.post("/chat/stream", body("new")).await)
        .rest()
        .await;
    let (before, after) = (told(&old.rest().await).1, told(&new).1);
    assert!(
        before["generation"].as_u64().unwrap() < after["generation"].as_u64().unwrap(),
        "{before} {after}"
    );
    let policy = live(&server, "trim").await;
    assert!(policy["file"].as_str().unwrap().ends_with("mine.wasm"));
    assert_eq!(policy["generation"], after["generation"]);
}

/// From the rename to the first answer that the new policies served, with the default settings. On a
/// quiet machine it is a tenth of a second; the bound is for one that builds something else.
#[tokio::test]
async fn new_requests_use_a_dropped_file_soon() {
    let server = Server::start(&["engine.kind=scripted", "cache.store=off"]).await;
    let generation = async || {
        let body = json!({ "message": "hello" });
        let answer: Value = server.post("/chat", body).await.json().await.unwrap();
        answer["stent"]["generation"].as_u64().unwrap()
    };
    let mut best = Duration::MAX;
    for name in ["one", "two", "three"] {
        let before = generation().await;
        std::fs::write(server.policies().join(".tmp"), keeper(name)).unwrap();
        let dropped = Instant::now();
        std::fs::rename(
            server.policies().join(".tmp"),
            server.policies().join("mine.wasm"),
        )
        .unwrap();
        while generation().await == before {
            let waited = dropped.elapsed();
            assert!(waited < Duration::from_secs(20), "{name}: {}", server.log());
        }
        best = best.min(dropped.elapsed());
        let serving = live(&server, "trim").await;
        assert_eq!(serving["name"], name, "{}", server.log());
    }
    println!("a dropped file serves after {best:?}");
    assert!(best < Duration::from_secs(5), "it took {best:?}");
}

/// The list tells everything about what serves, and about what does not, why.
#[tokio::test]
async fn the_list_tells_what_serves_and_what_does_not() {
    let server = Server::start(&["engine.kind=scripted"]).await;
    let built_in = live(&server, "trim").await;
    let bytes = bundled("trim-exchanges");
    let sha256 = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    assert_eq!(built_in["name"], "trim-exchanges");
    assert_eq!(built_in["sha256"], sha256(&bytes));
    assert_eq!(
        (&built_in["file"], &built_in["revision"]),
        (&Value::Null, &json!(0))
    );

    let guest = keeper("mine");
    std::fs::write(server.policies().join("mine.wasm"), &guest).unwrap();
    let refusing = Guest::guard("bad", "(unreachable)").self_test(NO).core();
    std::fs::write(server.policies().join("bad.wasm"), &refusing).unwrap();
    let entry = async |s: &Server, state: &str, file: &str| {
        let list = s.admin("/admin/policies").await;
        let mut list = list.as_array().unwrap().iter();
        let there = |p: &&Value| {
            p["state"] == state && p["file"].as_str().is_some_and(|f| f.ends_with(file))
        };
        list.find(there).cloned()
    };
    server
        .until("both files are decided about", async |s| {
            entry(s, "live", "mine.wasm").await.is_some()
                && entry(s, "rejected", "bad.wasm").await.is_some()
        })
        .await;
    let serving = entry(&server, "live", "mine.wasm").await.unwrap();
    let answer = server.chat("hello", "s").await;
    let file = server.policies().join("mine.wasm").display().to_string();
    for (field, expected) in [
        ("hook", json!("trim")),
        ("name", json!("mine")),
        ("version", json!("1.0.0")),
        ("sha256", json!(sha256(&guest))),
        ("revision", json!(1)),
        ("generation", answer["stent"]["generation"].clone()),
        ("file", json!(file)),
        ("stage", Value::Null),
        ("reason", Value::Null),
    ] {
        assert_eq!(serving[field], expected, "{field}: {serving}");
    }
    let rejected = entry(&server, "rejected", "bad.wasm").await.unwrap();
    for (field, expected) in [
        ("hook", json!("guard")),
        ("sha256", json!(sha256(&refusing))),
        ("stage", json!("self-test")),
        ("reason", json!("it reported: it will not do")),
    ] {
        assert_eq!(rejected[field], expected, "{field}: {rejected}");
    }
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_says_why() {
    let server = Server::start(&SLOW).await;
    let before = live(&server, "trim").await;
    std::fs::write(server.policies().join("broken.wasm"), b"this is no policy").unwrap();
    let rejected = async |s: &Server| {
        let list = s.admin("/admin/policies").await;
        list.as_array()
            .unwrap()
            .iter()
            .find(|p| p["state"] == "rejected")
            .cloned()
    };
    server
        .until("it is rejected", async |s| rejected(s).await.is_some())
        .await;
    let entry = rejected(&server).await.unwrap();
    assert!(
        entry["file"].as_str().unwrap().ends_with("broken.wasm"),
        "{entry}"
    );
    assert!(
        entry["stage"].is_string() && !entry["reason"].as_str().unwrap().is_empty(),
        "{entry}"
    );
    let log = server.log();
    let line = log
        .lines()
        .find(|line| line.contains("broken.wasm: contract: is not WebAssembly"));
    assert!(
        line.is_some_and(|line| line.contains("\"stage\":\"contract\"")),
        "{log}"
    );
    let metrics = server.metrics().await;
    let counted = r#"stent_policy_reloads_total{result="rejected",stage="contract",hook=""} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    assert_eq!(live(&server, "trim").await, before);
    server.chat("still there?", "s").await;
    std::fs::remove_file(server.policies().join("broken.wasm")).unwrap();
    server
        .until("it is off the list", async |s| rejected(s).await.is_none())
        .await;
}

#[tokio::test]
async fn a_bad_file_at_startup_is_no_reason_not_to_start_unless_it_is_required() {
    let bad = |dir: &std::path::Path| {
        std::fs::write(dir.join("bad.wasm"), b"this is no policy").unwrap();
    };
    let ready = async |s: &Server| {
        let response = s.client.get(format!("{}/ready", s.base)).send().await;
        let response = response.unwrap();
        (response.status(), response.text().await.unwrap())
    };
    let optional = Server::launch(&SLOW, bad);
    optional
        .until("it is ready", async |s| {
            let asked = s.client.get(format!("{}/ready", s.base)).send().await;
            asked.is_ok_and(|response| response.status() == 200)
        })
        .await;
    optional.chat("Hello", "s").await;
    let required = Server::launch(&[&SLOW[..], &["policies.trim.required=true"]].concat(), bad);
    required
        .until("it answers", async |s| {
            let alive = s.client.get(format!("{}/health", s.base)).send().await;
            alive.is_ok_and(|response| response.status() == 200)
        })
        .await;
    let (status, why) = ready(&required).await;
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("policies.trim.required is set"), "{why}");
    // The built-in policy serves those who ask all the same.
    assert_eq!(live(&required, "trim").await["state"], "builtin");
    required.chat("Hello", "s").await;
    std::fs::rename(
        required.policies().join("bad.wasm"),
        required.policies().join("bad.txt"),
    )
    .unwrap();
    std::fs::write(
        required.policies().join("good.wasm"),
        bundled("trim-exchanges"),
    )
    .unwrap();
    required
        .until("it is ready", async |s| ready(s).await.0 == 200)
        .await;
}
