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

/// Cached answers are given up first, and that is enough: nobody is refused, nothing ends.
#[tokio::test]
async fn what_can_be_spared_goes_and_the_gateway_stays() {
    // One word that is long: an answer of it is made in one step, and takes room.
    let word = "x".repeat(200_000);
    let file = |max_rss: u64| {
        format!(
            "[server]\nmax_rss = {max_rss}\n[cache]\nmax_bytes = \"256MiB\"\n\
             [engine]\nkind = \"scripted\"\nscript.text = \"{word}\"\n"
        )
    };
    let shared = [
        "policies.cache.scope=tenant",
        "policies.cache.config.scope=tenant",
    ];
    let server = Server::launch(&shared, |policies| {
        std::fs::write(policies.with_file_name("stent.toml"), file(20 << 30)).unwrap();
    });
    server
        .until("it is ready", async |s| {
            let ready = s.client.get(format!("{}/ready", s.base)).send().await;
            ready.is_ok_and(|response| response.status() == 200)
        })
        .await;
    for n in 0..200 {
        let body = json!({ "message": format!("q{n}"), "session_id": format!("s{n}") });
        let response = server.post("/chat", body).await;
        assert_eq!(response.status(), 200, "{}", server.log());
        response.bytes().await.unwrap();
    }
    assert_eq!(server.gauge("stent_cache_entries").await, 200);
    let limit = server.resident() - (20 << 20);
    let path = server.folder.path().join("stent.toml");
    std::fs::write(path, file(limit)).unwrap();
    server.signal("HUP");
    server
        .until("the cache is empty and the memory is back", async |s| {
            s.gauge("stent_cache_entries").await == 0 && s.resident() < limit
        })
        .await;
    let log = server.log();
    assert!(
        log.contains("parked KV and cached answers are given up"),
        "{log}"
    );
    let ready = server
        .client
        .get(format!("{}/ready", server.base))
        .send()
        .await;
    assert_eq!(ready.unwrap().status(), 200);
}
