//! `server.max_rss`, and restarts that nobody asked for.

use serde_json::json;

use crate::support::server::{Frames, Server, told};

#[tokio::test]
async fn too_much_memory_ends_in_order_and_asks_for_a_fresh_start() {
    let sets = [
        "engine.kind=scripted",
        "engine.script.text=one two three four five six seven eight nine ten",
        "engine.script.token=900ms",
        "server.max_rss=1MiB",
        "cache.store=off",
    ];
    let mut server = Server::start(&sets).await;
    let body = json!({ "message": "a", "session_id": "a" });
    let running = Frames::of(server.post("/chat/stream", body).await);
    server
        .until("newcomers are refused", async |s| {
            let ready = s.client.get(format!("{}/ready", s.base)).send().await;
            ready.is_ok_and(|response| response.status() == 503)
        })
        .await;
    // What runs is finished first.
    assert!(told(&running.rest().await).0.ends_with("ten"));
    assert_eq!(server.ended().await, 75);
    let log = server.log();
    assert!(
        log.contains("parked KV and cached answers are given up"),
        "{log}"
    );
    // The next one knows why.
    let next = server.again(&["engine.kind=scripted"]).await;
    assert_eq!(next.gauge("stent_restarts").await, 1);
}

#[tokio::test]
async fn a_kill_is_counted_and_a_stop_is_not() {
    let mut server = Server::start(&["engine.kind=scripted"]).await;
    server.terminate();
    assert_eq!(server.ended().await, 0);
    let mut server = server.again(&["engine.kind=scripted"]).await;
    assert_eq!(crashes(&server).await, 0);
    server.kill();
    let server = server.again(&["engine.kind=scripted"]).await;
    assert_eq!(crashes(&server).await, 1);
    assert_eq!(server.gauge("stent_restarts").await, 2);
}

async fn crashes(server: &Server) -> u64 {
    let told = server.admin("/admin/status").await;
    told["restarts"]["crashes"].as_u64().unwrap()
}
