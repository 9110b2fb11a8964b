//! With the real engine: what is computed for one tenant's conversation is not used for another's,
//! even under the same name and with the same words.

use serde_json::{Value, json};
use stent::access::Digest;

use crate::support::server::Server;

fn keys() -> String {
    let entry = |tenant: &str| {
        let digest = Digest::of(tenant);
        format!("{{ tenant = \"{tenant}\", sha256 = \"{digest}\" }}")
    };
    format!("server.keys=[{}, {}]", entry("a"), entry("b"))
}

async fn ask(server: &Server, tenant: &str, session: &str, message: &str) -> Value {
    let body = json!({ "message": message, "session_id": session, "temperature": 0 });
    let asked = server.client.post(format!("{}/chat", server.base));
    let answer = asked.bearer_auth(tenant).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", server.log());
    answer.json().await.unwrap()
}

fn reused(answer: &Value) -> u64 {
    answer["stent"]["cached_tokens"].as_u64().unwrap()
}

#[tokio::test]
async fn nobody_meets_what_was_computed_for_another_tenant() {
    let keys = keys();
    let sets = [
        "cache.store=off",
        "engine.max_tokens=60",
        "engine.threads=1",
        &keys,
    ];
    let server = Server::start(&sets).await;
    let secret = "My secret illness is tuberculosis. What is tuberculosis?";
    let told = ask(&server, "a", "s", secret).await;
    assert!(
        told["text"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .contains("tuberculosis"),
        "{told}"
    );
    // All that the sessions of one tenant have in common is the operator's own text.
    let head = reused(&ask(&server, "a", "t", secret).await);
    // The same words under the same name, of somebody else: no more than that.
    let same = ask(&server, "b", "s", secret).await;
    assert!(
        reused(&same) <= head,
        "{same}, of which {head} are everybody's"
    );
    // The owner's next question finds the conversation's KV: the test would see it.
    let next = "What are its symptoms?";
    let own = ask(&server, "a", "s", next).await;
    assert!(
        reused(&own) > head + 10,
        "{own}, of which {head} are everybody's"
    );
    // Somebody else's question under that name is answered as if nobody had been there.
    let other = ask(&server, "b", "u", next).await;
    let alone = Server::start(&sets).await;
    let fresh = ask(&alone, "b", "u", next).await;
    assert_eq!(other["text"], fresh["text"]);
    assert_eq!(
        other["stent"]["prompt_tokens"],
        fresh["stent"]["prompt_tokens"]
    );
    assert!(reused(&other) <= head, "{other}");
}
