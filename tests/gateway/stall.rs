//! A step that hangs: the world is told, the slot comes back, and `/health` answers all the time.

use serde_json::{Value, json};

use crate::support::server::Server;

/// Each prompt token takes 5 ms: a piece of 512 hangs for 2.5 s, a short question for 0.2 s.
const SLOW: [&str; 4] = [
    "engine.kind=scripted",
    "engine.script.prefill=5ms",
    "engine.n_ubatch=512",
    "engine.stall_after=1s",
];

#[tokio::test]
async fn a_stall_is_told_and_its_slot_comes_back() {
    let server = Server::start(&SLOW).await;
    let secret = "confidential ".repeat(150);
    let asked = server.post("/chat", json!({ "message": secret }));
    let watched = async {
        let get = |route: &str| server.client.get(format!("{}{route}", server.base)).send();
        let not_ready = async || {
            let response = get("/ready").await.unwrap();
            let status = response.status().as_u16();
            let body: Value = response.json().await.unwrap();
            (status == 503).then(|| body["reason"].as_str().unwrap().to_owned())
        };
        loop {
            if let Some(reason) = not_ready().await {
                let health = get("/health").await.unwrap();
                assert_eq!(health.status(), 200, "alive whatever the engine does");
                return reason;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let (answer, reason) = futures::join!(asked, watched);
    assert!(
        reason.starts_with("computing a step of 512 rows for slot 0 has run for "),
        "{reason}"
    );
    assert_eq!(answer.status(), 500);
    let error: Value = answer.json().await.unwrap();
    assert_eq!(error["error"]["code"], "engine_error");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("slot 0 made no progress for "),
        "{message}"
    );

    server
        .until("it is ready again", async |s| {
            let ready = s.client.get(format!("{}/ready", s.base)).send().await;
            ready.unwrap().status() == 200 && s.idle_slots().await == 4
        })
        .await;
    let answer = server.chat("hi", "after").await;
    assert!(
        answer["text"].as_str().unwrap().starts_with("This is"),
        "{answer}"
    );
    let log = server.log();
    assert!(
        log.contains("the engine makes no progress: computing a step of 512 rows for slot 0"),
        "{log}"
    );
    assert!(!log.contains("confidential"), "{log}");
}
