//! Far more people than places: each gets an answer or a 429, at once, and nothing piles up.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::server::{Frames, Server, told};

const CLIENTS: usize = 200;

/// Answered, refused, and the longest wait for a refusal.
async fn wave(server: &Server, number: usize) -> (usize, usize, Duration) {
    let ask = async |client: usize| {
        let body = json!({ "message": format!("wave {number} client {client}") });
        let asked = Instant::now();
        let response = server.post("/chat/stream", body).await;
        if response.status() == 429 {
            let wait = response.headers()["retry-after"].to_str().unwrap();
            assert!(wait.parse::<u64>().unwrap() > 0);
            return Err(asked.elapsed());
        }
        assert_eq!(response.status(), 200);
        let frames = Frames::of(response).rest().await;
        assert!(told(&frames).0.ends_with("everyone."), "{frames:?}");
        Ok(())
    };
    let all = futures::future::join_all((0..CLIENTS).map(ask));
    let all = tokio::time::timeout(Duration::from_secs(120), all).await;
    let all = all.expect("nobody hangs");
    let refused: Vec<_> = all.iter().filter_map(|one| one.err()).collect();
    let longest = refused.iter().max().copied().unwrap_or_default();
    (CLIENTS - refused.len(), refused.len(), longest)
}

#[tokio::test]
async fn two_hundred_people_on_four_slots_and_a_queue_of_64() {
    let sets = [
        "engine.kind=scripted",
        "engine.script.token=20ms",
        "engine.queue=64",
    ];
    let server = Server::start(&sets).await;
    let mut resident = Vec::new();
    for number in 0..4 {
        let (answered, refused, longest) = wave(&server, number).await;
        // Those who came when the first ones were answered already may have found a place.
        assert!(answered >= 68, "{answered} of the 68 places were used");
        assert!(number > 0 || refused > 0, "nobody was refused");
        assert!(
            longest < Duration::from_secs(20),
            "a refusal took {longest:?}"
        );
        server
            .until("all is free", async |s| {
                s.idle_slots().await == 4 && s.admin("/admin/slots").await["queued"] == 0
            })
            .await;
        resident.push(server.resident());
    }
    let grown = resident[3].saturating_sub(resident[1]) >> 20;
    assert!(grown < 64, "memory grew by {grown} MiB: {resident:?}");
}
