//! A session that is forgotten as soon as its answer is there: nothing of it comes back.

use super::caching::swap;
use super::departures::{all_is_free, start};
use crate::policy::guest::Guest;
use crate::support::server::Server;

/// Keeps everything, after a tenth of a second or more.
fn slow() -> Vec<u8> {
    let body = "(loop (local.set $n (i32.add (local.get $n) (i32.const 1))) \
                (br_if 0 (i32.lt_u (local.get $n) (i32.const 200000000)))) (i32.const 1024)";
    Guest::trimmer("slow", body).core()
}

async fn prepared(server: &Server) -> u64 {
    let totals = server.admin("/admin/slots").await["totals"].clone();
    totals["prepared"].as_u64().unwrap()
}

async fn delete(server: &Server, session: &str) {
    let session = format!("{}/sessions/{session}", server.base);
    let gone = server.client.delete(session).send().await.unwrap();
    assert_eq!(gone.status(), 204);
}

/// While its next prompt is thought of, the answer is over for its client, who has it all forgotten.
#[tokio::test]
async fn nothing_is_prepared_for_a_session_that_was_forgotten_meanwhile() {
    let (server, cells) = start(&["policies.limits.call=1m"]).await;
    swap(&server, "slow.wasm", &slow()).await;
    server.chat("What is gout?", "gone").await;
    delete(&server, "gone").await;
    let before = prepared(&server).await;
    // Another session's next prompt takes as long to think of, and is begun later.
    server.chat("What is asthma?", "kept").await;
    server
        .until("the other session is prepared", async |s| {
            prepared(s).await > before
        })
        .await;
    delete(&server, "kept").await;
    all_is_free(&server, cells).await;
}
