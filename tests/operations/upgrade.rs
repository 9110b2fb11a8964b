//! A new process takes the place of a running one, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::server::Server;

/// The process that was started last.
fn pid(server: &Server) -> u64 {
    let book = std::fs::read(server.folder.path().join("data/starts.json")).unwrap();
    let book: Value = serde_json::from_slice(&book).unwrap();
    book.as_array().unwrap().last().unwrap()["pid"]
        .as_u64()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_the_process_is_replaced() {
    let sets = [
        "engine.kind=scripted",
        "engine.script.text=one two three four five six seven eight nine ten",
        "engine.script.token=10ms",
        "cache.store=off",
        "server.drain=20s",
    ];
    let mut server = Server::start(&sets).await;
    let (stop, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let load: Vec<_> = (0..6)
        .map(|worker| {
            let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
            let url = format!("{}/chat", server.base);
            tokio::spawn(async move {
                // Half of them keep their connections, half do not.
                let kept = if worker % 2 == 0 { usize::MAX } else { 0 };
                let client = reqwest::Client::builder().pool_max_idle_per_host(kept);
                let client = client.build().unwrap();
                let mut finished = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let n = asked.fetch_add(1, Ordering::Relaxed);
                    let session = format!("s{worker}");
                    let body = json!({ "message": format!("q{n}"), "session_id": session });
                    let response = client.post(&url).json(&body).send().await;
                    let response = response.unwrap_or_else(|e| panic!("request {n}: {e:?}"));
                    let (status, text) = (response.status(), response.text().await.unwrap());
                    assert!(
                        status == 200 && text.contains("ten"),
                        "request {n}: {status} {text}"
                    );
                    finished.push(format!("q{n}"));
                }
                finished
            })
        })
        .collect();
    // A connection that is kept and not used would be waited for.
    let fresh = reqwest::Client::builder().pool_max_idle_per_host(0);
    server.client = fresh.build().unwrap();
    let mut last = pid(&server);
    for round in 0..2 {
        while asked.load(Ordering::Relaxed) < 20 * (round + 1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server.signal_pid(last, "USR2");
        server
            .until("another process starts", async |s| pid(s) != last)
            .await;
        let now = pid(&server);
        let old = format!("/proc/{last}/stat");
        server
            .until("the one before has gone", async |_| {
                // The test's own child stays as a zombie until it is waited for.
                std::fs::read_to_string(&old).map_or(true, |stat| stat.contains(") Z "))
            })
            .await;
        last = now;
    }
    stop.store(true, Ordering::Relaxed);
    for (worker, task) in load.into_iter().enumerate() {
        let finished = task.await.unwrap();
        // Both processes have written to the session, and nothing is lost or out of order.
        let session = server.session(&format!("s{worker}")).await;
        let messages = session["messages"].as_array().unwrap();
        let asked = messages
            .iter()
            .step_by(2)
            .map(|m| m["text"].as_str().unwrap());
        assert_eq!(asked.collect::<Vec<_>>(), finished);
    }
    let total = asked.load(Ordering::Relaxed);
    println!("{total} requests over two upgrades");
    assert_eq!(
        server.gauge("stent_restarts").await,
        0,
        "an upgrade is no restart"
    );
    assert_eq!(server.ended().await, 0);
    server.signal_pid(last, "TERM");
    let gone = format!("/proc/{last}");
    server
        .until("the last one has gone", async |_| {
            !std::path::Path::new(&gone).exists()
        })
        .await;
}
