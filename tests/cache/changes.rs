//! What invalidates answers that outlive the process: everything that they depended on, and nothing
//! else.

use std::path::Path;

use serde_json::json;

use crate::support::redis::RedisServer;
use crate::support::server::{Frames, Server, demo_model, told};

/// Text and whether it came from the cache; each question in a session of its own.
async fn ask(server: &Server, message: &str) -> (String, bool) {
    let response = server
        .post("/chat/stream", json!({ "message": message }))
        .await;
    assert_eq!(response.status(), 200, "{}", server.log());
    let (text, summary) = told(&Frames::of(response).rest().await);
    (text, summary["cached"].as_bool().unwrap())
}

async fn is_hit(server: &Server, message: &str) -> bool {
    ask(server, message).await.1
}

fn shared(redis: &RedisServer) -> Vec<String> {
    [
        "policies.cache.scope=tenant",
        "policies.cache.config.scope=tenant",
        "cache.timeout=1s",
        "sessions.store=memory",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([format!("cache.store={}", redis.url())])
    .collect()
}

/// With `more` on top.
fn with<'a>(sets: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    sets.iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect()
}

#[tokio::test]
async fn a_restart_keeps_answers_and_another_config_those_that_did_not_depend_on_it() {
    let redis = RedisServer::start();
    let mut sets = shared(&redis);
    sets.push("engine.kind=scripted".into());
    let question = "What is asthma?";
    let mut server = Server::start(&with(&sets, &[])).await;
    assert!(!is_hit(&server, question).await);
    assert!(is_hit(&server, question).await);
    server = server.again(&with(&sets, &[])).await;
    assert!(is_hit(&server, question).await, "after a restart");
    // (what changes, whether the answer by the exact prompt still holds)
    for (set, holds) in [
        ("policies.low_water=60", true),
        ("policies.trim.config.exchanges=5", true),
        ("engine.n_ctx=1536", false),
        ("engine.script.text=Another model's words.", false),
        ("engine.max_tokens=77", false),
        ("engine.temperature=0.5", false),
        ("engine.seed=7", false),
        ("policies.prompt.config.system=Answer.", false),
        ("policies.filter.bundled=filter-redact", false),
        ("policies.attributes.region=eu", false),
    ] {
        server = server.again(&with(&sets, &[set])).await;
        assert_eq!(is_hit(&server, question).await, holds, "{set}");
        assert!(is_hit(&server, question).await, "{set}: the second time");
    }
    server = server.again(&with(&sets, &[])).await;
    assert!(is_hit(&server, question).await, "back again");
}

/// A key of the policy's own parts is looked up before anything is trimmed: what decides how much
/// stays counts too.
#[tokio::test]
async fn answers_by_parts_depend_on_how_much_history_stays() {
    let redis = RedisServer::start();
    let mut sets = shared(&redis);
    sets.extend(
        [
            "engine.kind=scripted",
            "policies.cache.config.normalise=true",
        ]
        .map(str::to_owned),
    );
    let mut server = Server::start(&with(&sets, &[])).await;
    assert!(!is_hit(&server, "What is gout?").await);
    assert!(is_hit(&server, "what is GOUT").await);
    for set in ["policies.low_water=60", "engine.n_ctx=1536"] {
        server = server.again(&with(&sets, &[set])).await;
        assert!(!is_hit(&server, "What is gout?").await, "{set}");
        assert!(is_hit(&server, "what is GOUT").await, "{set}");
    }
}

/// The same shapes, vocabulary, name and size: only one byte of a weight differs.
#[tokio::test]
async fn models_that_differ_in_their_weights_alone_share_no_answers() {
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.gguf");
    let mut bytes = std::fs::read(demo_model()).unwrap();
    let at = bytes.len() - 1_000;
    bytes[at] ^= 1;
    std::fs::write(&other, &bytes).unwrap();
    let sets = shared(&redis);
    let small = ["engine.max_tokens=200", "engine.temperature=0"];
    let model = |path: &Path| format!("engine.model={}", path.display());
    let (demo, other) = (model(&demo_model()), model(&other));
    let mut server = Server::start(&with(&sets, &[small[0], small[1], &demo])).await;
    let question = "What is flu?";
    assert!(!is_hit(&server, question).await);
    assert!(is_hit(&server, question).await);
    server = server
        .again(&with(&sets, &[small[0], small[1], &other]))
        .await;
    assert!(!is_hit(&server, question).await, "another model's answer");
    server = server
        .again(&with(&sets, &[small[0], small[1], &demo]))
        .await;
    assert!(is_hit(&server, question).await, "the first one's");
}
