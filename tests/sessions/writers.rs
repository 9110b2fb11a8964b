//! Two requests of one session at once, over HTTP.

use serde_json::json;

use crate::support::server::Server;

const SLOW: [&str; 3] = [
    "engine.kind=scripted",
    "engine.script.token=30ms",
    "engine.seed=random",
];

async fn stored(server: &Server, id: &str) -> Vec<String> {
    let session = server.session(id).await;
    let messages = session["messages"].as_array().cloned().unwrap_or_default();
    let text = |m: &serde_json::Value| m["text"].as_str().unwrap().to_owned();
    messages.iter().map(text).collect()
}

#[tokio::test]
async fn the_second_waits_and_finds_the_first_ones_exchange() {
    let server = Server::start(&SLOW).await;
    tokio::join!(server.chat("first", "s"), server.chat("second", "s"));
    let texts = stored(&server, "s").await;
    assert_eq!(texts.len(), 4, "{texts:?}");
    assert!(texts[0] != texts[2] && texts[1] == texts[3], "{texts:?}");
    // A third, right after the answer, is not in anybody's way.
    server.chat("third", "s").await;
    assert_eq!(stored(&server, "s").await.len(), 6);
}

#[tokio::test]
async fn the_second_is_refused_where_the_operator_says_so() {
    let sets = [SLOW.as_slice(), &["sessions.on_busy=refuse"]].concat();
    let server = Server::start(&sets).await;
    let body = |text: &str| json!({ "message": text, "session_id": "s" });
    let first = server.post("/chat/stream", body("first")).await;
    assert_eq!(first.status(), 200);
    let second = server.post("/chat", body("second")).await;
    assert_eq!(second.status(), 409);
    assert_eq!(second.headers()["retry-after"], "1");
    let refused: serde_json::Value = second.json().await.unwrap();
    assert_eq!(refused["error"]["code"], "session_busy");
    let other = server
        .post("/chat", json!({ "message": "x", "session_id": "t" }))
        .await;
    assert_eq!(other.status(), 200);
    let rest = crate::support::server::Frames::of(first).rest().await;
    assert!(rest.iter().any(|frame| frame["type"] == "finish"));
    // Whoever has read `finish` may ask at once.
    server.chat("third", "s").await;
    assert_eq!(stored(&server, "s").await.len(), 4);
}

#[tokio::test]
async fn who_leaves_gives_the_session_back() {
    let server = Server::start(&[SLOW[0], "engine.script.token=500ms"]).await;
    let body = json!({ "message": "first", "session_id": "s" });
    drop(server.post("/chat/stream", body).await);
    server.chat("second", "s").await;
    assert_eq!(stored(&server, "s").await[0], "second");
}
