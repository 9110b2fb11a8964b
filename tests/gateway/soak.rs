//! Swaps under load, for as long as one likes: no request fails, none sees two generations, and
//! what is replaced is given back. `STENT_SOAK=1000` (`make soak`) for the long form.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::policy::guest::{Guest, words};
use crate::support::server::Server;

const SWAPS: usize = 60;
/// More memory than this, from the second quarter of the swaps to the last, is a leak: a
/// generation that is kept holds some megabytes of instances.
const GROWTH: u64 = 8 << 20;
/// An old generation is freed within this time of its last request, on a machine that does nothing
/// else; among other tests there is no telling.
const FREED: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(1)];

const TEXT: &str = "This one is said by both of them";
const TOLD: [&str; 2] = ["This one is said |A", "This one is said by both |B"];

/// A component with a hook at each end of a request: its prompt builder chooses where the answer
/// stops, its filter signs the answer. A request that meets both components is found out.
fn policy(which: usize) -> Vec<u8> {
    let (name, stop, sign) = [("a", "by", "|A"), ("b", "of", "|B")][which];
    // One piece, the newest message; one stop text. A record of a message has 24 bytes.
    let build = "(call $messages (local.get $all) (i32.const 1400)) \
                 (i64.store (i32.const 2056) (i64.load (i32.add (i32.load (i32.const 1400)) \
                 (i32.mul (i32.sub (i32.load (i32.const 1404)) (i32.const 1)) (i32.const 24)))))"
        .to_owned()
        + &words(2048, &[2])
        + &words(2112, &[900, 2])
        + &words(1088, &[0, 2048, 1, 0, 2112, 1])
        + "(i32.const 1088)";
    let push = "(i32.store (i32.const 1288) (local.get $text)) \
                (i32.store (i32.const 1292) (local.get $bytes)) (i32.const 1280)";
    let finish = words(1344, &[0, 910, 2]) + "(i32.const 1344)";
    Guest::prompt(name, "(i32.const 1024)", &build)
        .importing(
            r#"(import "stent:policy/request@0.1.0" "[method]transcript.messages"
                (func $messages (param i32 i32)))"#,
        )
        .and(Guest::filter(name, "", push, &finish))
        .with(&format!(
            r#"(data (i32.const 900) "{stop}") (data (i32.const 910) "{sign}")"#
        ))
        .core()
}

/// One question after the other, each from somebody new: what is remembered of people is bounded, too.
async fn load(server: Arc<Server>, person: usize, stop: Arc<AtomicBool>, asked: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let turn = asked.fetch_add(1, Ordering::Relaxed);
        let session = format!("person-{person}-{turn}");
        let body = json!({ "message": "Hello", "session_id": session, "seed": "random" });
        let response = server.post("/chat", body).await;
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert_eq!(status, 200, "{text}\n{}", server.log());
        let whole = TOLD
            .iter()
            .any(|told| text.contains(&format!("\"{told}\"")));
        assert!(
            whole,
            "a request met two generations: {text}\n{}",
            server.log()
        );
    }
}

async fn serves(server: &Server, name: &str) -> bool {
    let list = server.admin("/admin/policies").await;
    let live = |p: &&serde_json::Value| p["state"] == "live" && p["name"] == name;
    list.as_array().unwrap().iter().filter(live).count() == 2
}

fn middle(resident: &[u64]) -> u64 {
    let mut sorted = resident.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_fail_no_request_and_keep_no_memory() {
    let asked_for = std::env::var("STENT_SOAK").ok();
    let freed = FREED[usize::from(asked_for.is_some())];
    let swaps = asked_for.map_or(SWAPS, |count| count.parse().unwrap());
    let text = format!("engine.script.text={TEXT}");
    let settings = [
        "engine.kind=scripted",
        &text,
        "engine.script.token=1ms",
        "engine.slots=4",
        "cache.store=off",
        "policies.settle=10ms",
        "sessions.max_bytes=1MiB",
    ];
    let server = Arc::new(Server::start(&settings).await);
    let put = |which: usize| {
        let half = server.policies().join(".soak.tmp");
        std::fs::write(&half, policy(which)).unwrap();
        std::fs::rename(half, server.policies().join("soak.wasm")).unwrap();
    };
    put(0);
    server
        .until("the first one serves", async |s| serves(s, "a").await)
        .await;

    let (stop, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let load: Vec<_> = (0..4)
        .map(|person| {
            let (stop, asked) = (stop.clone(), asked.clone());
            tokio::spawn(load(server.clone(), person, stop, asked))
        })
        .collect();
    let (mut resident, mut slowest, began) = (Vec::new(), Duration::ZERO, Instant::now());
    for swap in 1..=swaps {
        put(swap % 2);
        let name = ["a", "b"][swap % 2];
        server
            .until("the other one serves", async |s| serves(s, name).await)
            .await;
        let swapped = Instant::now();
        while server.gauge("stent_policy_generations_live").await > 1 {
            assert!(
                swapped.elapsed() < freed,
                "swap {swap}: an old one is not freed"
            );
        }
        slowest = slowest.max(swapped.elapsed());
        resident.push(server.resident());
        if load.iter().any(|task| task.is_finished()) {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    let quarter = resident.len() / 4;
    let before = middle(&resident[quarter..2 * quarter]);
    let after = middle(&resident[3 * quarter..]);
    println!(
        "{swaps} swaps in {:.1?} under {} requests; an old generation is freed after {slowest:?} \
         at most; resident {} MB, then {} MB",
        began.elapsed(),
        asked.load(Ordering::Relaxed),
        before >> 20,
        after >> 20,
    );
    assert_eq!(resident.len(), swaps);
    assert!(
        asked.load(Ordering::Relaxed) > swaps as u64,
        "that was no load"
    );
    assert!(
        after < before + GROWTH,
        "resident memory grew from {before} to {after} bytes: {resident:?}"
    );
}
