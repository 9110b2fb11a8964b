//! The day something breaks, in short: people talk while everything around them fails.
//! `STENT_CHAOS=300` (`make chaos`) for as many seconds of it.
//!
//! What must hold all the time: an answer is whole or ends with an error, nobody reads another
//! person's words, nobody waits for ever, and after each fault the gateway serves within ten seconds.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::server::{Server, bundled};

/// Seconds of the short form.
const SHORT: u64 = 12;
/// After a fault the gateway serves again within this time (twice that where CI is slow).
const RECOVERY: Duration = Duration::from_secs(20);
/// No request may take longer, whatever happens.
const HANG: Duration = Duration::from_secs(60);
/// Resident memory may grow by this much from the first to the last third.
const GROWTH: u64 = 48 << 20;

/// What the people saw.
#[derive(Default)]
struct Seen {
    whole: AtomicU64,
    refused: AtomicU64,
    broken_off: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

/// One person: says words of their own, and must find in their history what they were told was
/// finished since the last loss of memory.
async fn person(
    name: usize,
    base: String,
    stop: Arc<AtomicBool>,
    epoch: Arc<AtomicU64>,
    seen: Arc<Seen>,
) {
    let client = reqwest::Client::builder().timeout(HANG).build().unwrap();
    let session = format!("person-{name}-{}", std::process::id());
    let (mut finished, mut since, mut n) = (Vec::new(), epoch.load(Ordering::SeqCst), 0);
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        let word = format!("w{name}x{n}z");
        let began = Instant::now();
        let body = json!({ "message": word, "session_id": session });
        let response = client.post(format!("{base}/chat")).json(&body).send().await;
        if began.elapsed() > HANG {
            seen.wrong(format!("{word} waited {:?}", began.elapsed()));
        }
        match response {
            Ok(response) if response.status() == 200 => match response.text().await {
                Ok(text) if text.contains("ten") => {
                    seen.whole.fetch_add(1, Ordering::Relaxed);
                    finished.push(word);
                }
                Ok(text) => seen.wrong(format!("half an answer as a whole one: {text}")),
                Err(_) => drop(seen.broken_off.fetch_add(1, Ordering::Relaxed)),
            },
            Ok(response) if response.status().is_server_error() || response.status() == 429 => {
                seen.refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(response) => seen.wrong(format!("{word}: status {}", response.status())),
            Err(_) => {
                seen.broken_off.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        // What the store keeps in memory is gone with its process: the count begins anew.
        let now = epoch.load(Ordering::SeqCst);
        if now != since {
            since = now;
            finished.clear();
        } else if n % 5 == 0 && now.is_multiple_of(2) {
            check_history(
                &client,
                &base,
                (name, &session),
                &finished,
                (&epoch, since),
                &seen,
            )
            .await;
        }
    }
}

async fn check_history(
    client: &reqwest::Client,
    base: &str,
    (name, session): (usize, &str),
    finished: &[String],
    (epoch, since): (&AtomicU64, u64),
    seen: &Seen,
) {
    let Ok(response) = client
        .get(format!("{base}/sessions/{session}"))
        .send()
        .await
    else {
        return;
    };
    let Ok(history) = response.text().await else {
        return;
    };
    if history.contains("shutting down") || epoch.load(Ordering::SeqCst) != since {
        return;
    }
    // Sessions remember so many exchanges; these are fewer.
    for word in finished.iter().rev().take(100) {
        if !history.contains(word.as_str()) {
            seen.wrong(format!("{word} was finished and is not in {history}"));
        }
    }
    let strange = history
        .split('"')
        .filter(|text| text.starts_with('w') && text.ends_with('z'))
        .find(|text| !text.starts_with(&format!("w{name}x")));
    if let Some(strange) = strange {
        seen.wrong(format!("{strange} is somebody else's, read by {name}"));
    }
}

async fn serves(server: &Server) -> bool {
    let body = json!({ "message": "probe" });
    let asked = server
        .client
        .post(format!("{}/chat", server.base))
        .json(&body);
    let asked = asked.timeout(Duration::from_secs(5)).send().await;
    asked.is_ok_and(|response| response.status() == 200)
}

/// Waits until it serves; returns how long that took.
async fn recovered(server: &Server, after: &str) -> Duration {
    let begun = Instant::now();
    while !serves(server).await {
        assert!(
            begun.elapsed() < RECOVERY,
            "after {after}: it does not serve\n{}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

/// Clients that no server likes: silent, half, slow, garbage, gone in the middle.
fn bad_clients(address: &str) {
    let head = "POST /chat/stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let body = "{\"message\":\"leaves\"}";
    for bytes in [
        String::new(),
        "GET /chat".into(),
        "\u{0}\u{1}\u{2}garbage\r\n\r\n".into(),
        format!("{head}content-length: 1000\r\n\r\n{{\"mess"),
        format!("{head}content-length: {}\r\n\r\n{body}", body.len()),
        format!("{head}content-length: 99999999999\r\n\r\n"),
    ] {
        if let Ok(mut stream) = TcpStream::connect(address) {
            let _ = stream.write_all(bytes.as_bytes());
        }
    }
}

const SETS: [&str; 8] = [
    "engine.kind=scripted",
    "engine.script.text=one two three four five six seven eight nine ten",
    "engine.script.token=2ms",
    "cache.store=off",
    "policies.settle=10ms",
    "server.drain=5s",
    "telemetry.protocol=http",
    "engine.queue=16",
];

/// A small disk of its own for the data folder, where this user may mount one; emptied and taken
/// away at the end.
struct Disk(Option<PathBuf>);

impl Disk {
    fn mount(folder: &Path) -> Self {
        std::fs::create_dir(folder).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "stent-chaos"])
            .arg(folder)
            .stderr(Stdio::null())
            .status();
        Self(
            mount
                .is_ok_and(|status| status.success())
                .then(|| folder.to_owned()),
        )
    }

    /// Takes all room that is left.
    fn fill(&self) {
        let Some(folder) = &self.0 else { return };
        let mut file = std::fs::File::create(folder.join("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn empty(&self) {
        if let Some(folder) = &self.0 {
            let _ = std::fs::remove_file(folder.join("filler"));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            let _ = Command::new("umount").arg("-l").arg(folder).status();
        }
    }
}

/// The people, and when they may go home.
struct Crowd {
    stop: Arc<AtomicBool>,
    epoch: Arc<AtomicU64>,
    seen: Arc<Seen>,
    people: Vec<tokio::task::JoinHandle<()>>,
    began: Instant,
}

impl Crowd {
    fn gather(server: &Server, people: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let epoch = Arc::new(AtomicU64::new(0));
        let seen = Arc::new(Seen::default());
        let come = |name| {
            tokio::spawn(person(
                name,
                server.base.clone(),
                Arc::clone(&stop),
                Arc::clone(&epoch),
                Arc::clone(&seen),
            ))
        };
        Self {
            people: (0..people).map(come).collect(),
            stop,
            epoch,
            seen,
            began: Instant::now(),
        }
    }

    /// What was in memory is lost. Called before and after: while the number is odd nobody looks
    /// for what they were told.
    fn forgets(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    async fn go_home(self, faults: usize, slowest: (&str, Duration), log: &str) {
        self.stop.store(true, Ordering::SeqCst);
        for person in self.people {
            let home = tokio::time::timeout(HANG, person).await;
            home.expect("nobody hangs").unwrap();
        }
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let seen = &self.seen;
        println!(
            "{faults} faults in {:.0?}: {} answers, {} refused, {} broken off; slowest recovery \
             {:.1?} after {}",
            self.began.elapsed(),
            count(&seen.whole),
            count(&seen.refused),
            count(&seen.broken_off),
            slowest.1,
            slowest.0,
        );
        let wrong = seen.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}\n{log}");
        assert!(count(&seen.whole) > 20, "that was no load");
    }
}

fn seconds(short: u64) -> Duration {
    let asked = std::env::var("STENT_CHAOS").map(|s| s.parse().unwrap());
    Duration::from_secs(asked.unwrap_or(short))
}

const FAULTS: [&str; 7] = [
    "a kill",
    "swaps",
    "bad clients",
    "a full queue",
    "a full disk",
    "a lost collector",
    "a stop",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_served_while_everything_around_them_breaks() {
    // A collector that accepts and never answers: the worst kind.
    let collector = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let otlp = format!("telemetry.otlp=http://{}", collector.local_addr().unwrap());
    let mut sets = SETS.to_vec();
    sets.push(&otlp);
    let mut disk = Disk(None);
    let mut server = Server::launch(&sets, |policies| {
        disk = Disk::mount(&policies.with_file_name("data"));
    });
    recovered(&server, "the first start").await;
    let address = server.base.trim_start_matches("http://").to_owned();

    let crowd = Crowd::gather(&server, 8);
    let (mut round, mut resident) = (0_usize, Vec::new());
    let mut slowest = ("nothing", Duration::ZERO);
    while crowd.began.elapsed() < seconds(SHORT) || round < FAULTS.len() {
        let fault = FAULTS[round % FAULTS.len()];
        let mut gone = None;
        match fault {
            "a kill" | "a stop" => {
                crowd.forgets();
                if fault == "a stop" {
                    server.terminate();
                    server.ended().await;
                }
                gone = Some(Instant::now());
                server = server.again(&sets).await;
                crowd.forgets();
            }
            "swaps" => swaps(&server).await,
            "bad clients" => (0..20).for_each(|_| bad_clients(&address)),
            "a full queue" => flood(&server).await,
            "a full disk" => {
                disk.fill();
                swaps(&server).await;
                recovered(&server, fault).await;
                disk.empty();
            }
            // Connections to it wait in a queue that nobody empties: that is lost enough.
            _ => {
                let _ = tokio::time::timeout(Duration::from_millis(100), collector.accept()).await;
            }
        }
        let took = recovered(&server, fault).await;
        // After a kill the start counts, too.
        let took = gone.map_or(took, |gone| gone.elapsed());
        assert!(took < RECOVERY, "{took:?} after {fault}");
        if took > slowest.1 {
            slowest = (fault, took);
        }
        if fault == "a lost collector" {
            resident.push(server.resident());
        }
        round += 1;
    }
    let log = server.log();
    crowd.go_home(round, slowest, &log).await;
    let third = resident.len() / 3;
    if third > 0 {
        let (first, last) = (resident[third - 1], resident[resident.len() - 1]);
        println!("resident {} MB, then {} MB", first >> 20, last >> 20);
        assert!(last < first + GROWTH, "memory grew: {resident:?}");
    }
    // The disk goes before the folder that it is mounted in.
    drop(disk);
    drop(server);
}

async fn swaps(server: &Server) {
    for n in 0..10 {
        let half = server.policies().join(".tmp");
        let bytes = match n % 2 {
            0 => bundled("trim-exchanges"),
            _ => b"this is no policy".to_vec(),
        };
        std::fs::write(&half, bytes).unwrap();
        std::fs::rename(half, server.policies().join("chaos.wasm")).unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

async fn flood(server: &Server) {
    let asks = (0..60).map(|n| {
        let body = json!({ "message": format!("flood {n}") });
        let url = format!("{}/chat", server.base);
        server.client.post(url).json(&body).send()
    });
    futures::future::join_all(asks).await;
}

/// Other engines come and go; one of them is there at any time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_served_while_upstreams_come_and_go() {
    let behind = [SETS[0], SETS[1], SETS[2], "cache.store=off"];
    let mut upstreams = vec![Server::start(&behind).await, Server::start(&behind).await];
    let urls: Vec<String> = upstreams.iter().map(|u| format!("{}/v1", u.base)).collect();
    let list = format!("engine.upstreams={}", serde_json::to_string(&urls).unwrap());
    let sets = [
        "engine.kind=openai",
        &list,
        "engine.upstream.health_every=100ms",
        "engine.upstream.cooldown=100ms",
        "cache.store=off",
    ];
    let server = Server::start(&sets).await;
    let crowd = Crowd::gather(&server, 6);
    let mut slowest = ("nothing", Duration::ZERO);
    let mut round = 0_usize;
    while crowd.began.elapsed() < seconds(5) || round < 4 {
        let fault = ["the kill of one upstream", "its return"][round % 2];
        let at = (round / 2) % 2;
        match round % 2 {
            0 => upstreams[at].kill(),
            _ => {
                let back = upstreams.remove(at).again(&behind).await;
                upstreams.insert(at, back);
                server
                    .until("both upstreams are in use", async |s| {
                        let status = s.admin("/admin/slots").await;
                        let all = status["upstreams"].as_array().unwrap();
                        all.iter().all(|upstream| upstream["healthy"] == true)
                    })
                    .await;
            }
        }
        let took = recovered(&server, fault).await;
        if took > slowest.1 {
            slowest = (fault, took);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        round += 1;
    }
    let log = server.log();
    crowd.go_home(round, slowest, &log).await;
}
