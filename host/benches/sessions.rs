//! What a session store costs: `cargo bench --bench sessions`. Redis is measured where
//! `STENT_BENCH_REDIS` holds an address; its database is filled with test sessions.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot go on has failed"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use stent::session::{Exchange, Sessions, Settings, Where};
use stent::types::{Message, Role, SessionId, SessionKey, TenantId};

const APPENDS: usize = 2000;
const SESSIONS: usize = 1000;

/// An exchange of the size of a medical question: 200 and 1500 bytes, a token for 4 bytes.
fn exchange() -> Exchange {
    let message = |role, bytes: usize| Message {
        id: 0,
        role,
        text: "x".repeat(bytes).into(),
        tokens: vec![4711; bytes / 4].into(),
        pinned: false,
        exchange: 0,
    };
    Exchange {
        question: message(Role::User, 200),
        answer: message(Role::Assistant, 1500),
        anchor: None,
        model: "bench".into(),
    }
}

fn key(n: usize) -> SessionKey {
    SessionKey {
        tenant: TenantId::new("bench"),
        session: SessionId::parse(&format!("s{n}")).unwrap(),
    }
}

fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0
}

/// Milliseconds of `APPENDS` appends by so many writers at once, sorted.
async fn appends(sessions: &Arc<Sessions>, writers: usize) -> (Vec<f64>, Duration) {
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let sessions = Arc::clone(sessions);
            tokio::spawn(async move {
                let mut times = Vec::new();
                for n in 0..APPENDS / writers {
                    let key = key(writer * 100_000 + n % 50);
                    let opened = sessions.open_for(key).await.unwrap();
                    let start = Instant::now();
                    sessions.append(opened.writer, exchange()).await.unwrap();
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    times.sort_by(f64::total_cmp);
    (times, start.elapsed())
}

#[tokio::main]
async fn main() {
    let mut stores = vec![Where::Memory, Where::Redb];
    if let Ok(url) = std::env::var("STENT_BENCH_REDIS") {
        stores.push(Where::Redis(url.parse().unwrap()));
    }
    for store in stores {
        // Beside the build, on the disk that a gateway would use, and not in a memory file system.
        let data = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let settings = Settings {
            store: store.clone(),
            timeout: Duration::from_secs(10),
            ..Settings::default()
        };
        let sessions = Sessions::open(&settings, data.path()).unwrap();
        let sessions = Arc::new(sessions);
        let before = resident();
        for n in 0..SESSIONS {
            for _ in 0..3 {
                let opened = sessions.open_for(key(1_000_000 + n)).await.unwrap();
                sessions.append(opened.writer, exchange()).await.unwrap();
            }
        }
        let grown = (resident() - before) / 1e6;
        println!("{store}: {grown:.1} MB for {SESSIONS} sessions of 3 exchanges");
        for writers in [1, 4, 32] {
            let (times, took) = appends(&sessions, writers).await;
            let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
            println!(
                "{store}: append, {writers} at once: p50 {:.3} ms, p99 {:.3} ms, max {:.1} ms, {:.0}/s",
                at(0.5),
                at(0.99),
                at(1.0),
                times.len() as f64 / took.as_secs_f64()
            );
        }
    }
}
