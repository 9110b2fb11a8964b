//! Server spans where nothing is generated, and where they end: with the last byte.

use serde_json::json;

use super::traced::{Traced, slot, trace_of};

/// The routes around a chat have a server span of their own, and a client's mistake fails none.
#[tokio::test]
async fn around_a_chat() {
    let traced = Traced::start(&[]).await;
    let (client, base) = (&traced.server.client, &traced.server.base);
    let drawn = |method: &str, route: &str, status: u16, outcome: &str| {
        format!(
            "{method} {route} SERVER http.response.status_code={status} http.route=\"{route}\" stent.outcome=\"{outcome}\"\n"
        )
    };
    let models = client
        .get(format!("{base}/v1/models"))
        .send()
        .await
        .unwrap();
    traced
        .is(&trace_of(&models), &drawn("GET", "/v1/models", 200, "ok"))
        .await;
    let session = format!("{base}/sessions/nobody");
    let route = "/sessions/{id}";
    let none = client.get(&session).send().await.unwrap();
    traced
        .is(&trace_of(&none), &drawn("GET", route, 404, "error"))
        .await;
    let none = client.delete(&session).send().await.unwrap();
    traced
        .is(&trace_of(&none), &drawn("DELETE", route, 404, "error"))
        .await;
    let wrong = traced.server.post("/chat", json!({ "message": 3 })).await;
    assert_eq!(wrong.status(), 400);
    traced
        .is(&trace_of(&wrong), &drawn("POST", "/chat", 400, "error"))
        .await;
}

/// What nobody lets in, what is nowhere and what is asked the wrong way has its span too; the words
/// of who asked are not in it.
#[tokio::test]
async fn refused_before_anything_is_looked_at() {
    let key = stent::access::Digest::of("one");
    let keys = format!("server.keys=[{{ tenant = \"a\", sha256 = \"{key}\" }}]");
    let traced = Traced::start(&[&keys]).await;
    let ask = async |method: &str, path: &str, known: bool| {
        let url = format!("{}{path}", traced.server.base);
        let mut asked = traced.server.client.request(method.parse().unwrap(), url);
        if known {
            asked = asked.bearer_auth("one");
        }
        asked.send().await.unwrap()
    };
    for (method, path, known, name, route, status) in [
        ("GET", "/sessions/s", false, "GET", "/sessions/{id}", 401),
        ("GET", "/v1/models", false, "GET", "/v1/models", 401),
        ("GET", "/canary/s", false, "GET", "", 401),
        ("GET", "/canary/s", true, "GET", "", 404),
        ("GET", "/chat", true, "GET", "/chat", 405),
        ("PUT", "/sessions/s", true, "PUT", "/sessions/{id}", 405),
        ("CANARY", "/sessions/s", true, "HTTP", "/sessions/{id}", 405),
    ] {
        let refused = ask(method, path, known).await;
        assert_eq!(refused.status(), status, "{method} {path}");
        let (space, attribute) = match route {
            "" => ("", String::new()),
            route => (" ", format!(" http.route=\"{route}\"")),
        };
        let tree = format!(
            "{name}{space}{route} SERVER http.response.status_code={status}{attribute} stent.outcome=\"error\"\n"
        );
        traced.is(&trace_of(&refused), &tree).await;
    }
    let kept = traced.server.admin("/admin/traces").await;
    let mut kept = kept.as_array().unwrap().iter();
    assert!(
        kept.all(|trace| trace["attributes"].get("http.route").is_some()
            || trace["name"] == "policy.reload"),
        "strangers push out what was asked"
    );
    // Balancers ask all day.
    for path in ["/health", "/ready"] {
        let alive = ask("GET", path, false).await;
        assert!(!alive.headers().contains_key("traceresponse"), "{path}");
    }
}

/// An answer that is read again: the span of that request ends with its last byte as well.
#[tokio::test]
async fn a_resumed_stream_is_a_request_of_its_own() {
    let sets = ["engine.script.token=200ms", "cache.store=off"];
    let traced = Traced::start(&sets).await;
    let body = json!({ "message": "hello", "session_id": "one", "resume": true });
    let first = traced.server.post("/chat/stream", body).await;
    let url = format!("{}/chat/stream/one", traced.server.base);
    let again = traced.server.client.get(&url).send().await.unwrap();
    let head = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    // What is left of the twelve words comes behind the head, one each 200 ms.
    let said = traced.server.admin("/admin/slots").await["slots"][0]["output_tokens"].clone();
    let left = 11_u64.saturating_sub(said.as_u64().unwrap());
    let trace = trace_of(&again);
    again.text().await.unwrap();
    let tree = "GET /chat/stream/{response_id} SERVER http.response.status_code=200 http.route=\"/chat/stream/{response_id}\" stent.outcome=\"ok\"\n";
    let spans = traced.is(&trace, tree).await;
    let behind = u128::from(spans[0].end).saturating_sub(head.as_nanos());
    let least = u128::from(left) * 200_000_000;
    assert!(
        behind >= least,
        "it ended {behind} ns behind its head, expected {least}"
    );
    drop(first);
    // Whoever leaves in the middle is told.
    let body = json!({ "message": "again", "session_id": "two", "resume": true });
    let first = traced.server.post("/chat/stream", body).await;
    let url = format!("{}/chat/stream/two", traced.server.base);
    let gone = traced.server.client.get(&url).send().await.unwrap();
    let trace = trace_of(&gone);
    drop(gone);
    let tree = tree.replace("\"ok\"\n", "\"cancelled\"\n  ! client_disconnected\n");
    traced.is(&trace, &tree).await;
    drop(first);
}

/// The head of a stream leaves at once; its span ends when the last byte has left.
#[tokio::test]
async fn the_server_span_ends_with_the_last_byte() {
    // More than the sockets' buffers hold.
    let word = "w".repeat(60_000);
    let text = vec![word; 300].join(" ");
    let traced = {
        let write = move |policies: &std::path::Path| {
            let file = format!("[engine.script]\ntext = \"{text}\"\n");
            std::fs::write(policies.with_file_name("stent.toml"), file).unwrap();
        };
        Traced::with(&["cache.store=off"], write).await
    };
    let mut answer = traced.ask("hello", "one").await;
    let trace = trace_of(&answer);
    answer.chunk().await.unwrap().unwrap();
    slot(&traced, "the engine has said all", |s| {
        s["totals"]["generated"].as_u64() >= Some(300)
    })
    .await;
    // Batches leave once a second, so that the span of the run tells that this one could have come.
    let before = traced.spans(&trace, 8).await;
    assert!(
        before.iter().all(|span| span.kind != "SERVER"),
        "{before:#?}"
    );
    let resumed = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_nanos();
    while answer.chunk().await.unwrap().is_some() {}
    let (receiver, id) = (traced.receiver.clone(), trace.clone());
    let root = tokio::task::spawn_blocking(move || receiver.server(&id))
        .await
        .unwrap();
    assert!(
        u128::from(root.end) > resumed,
        "it ended before its last byte was read"
    );
}
