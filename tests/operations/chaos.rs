//! The day something breaks, in short: people talk while everything around them fails.
//! `STENT_CHAOS=300` (`make chaos`) for as many seconds of it.
//!
//! What must hold all the time: an answer is whole or ends with an error, what was told to be
//! finished is found in its session, nobody reads another person's words, nobody waits for ever,
//! memory stays, and after each fault the gateway serves within ten seconds.

mod crowd;
mod faults;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::redis::RedisServer;
use crate::support::server::Server;
use crowd::{Crowd, Says};
use faults::{Collector, Disk, Echo, bad_clients, flood, swaps};

/// Seconds of the short form.
const SHORT: u64 = 12;
const SHORT_OTHERS: u64 = 4;
/// Resident memory may grow by this much after the first third.
const GROWTH: u64 = 48 << 20;

/// So long it lasts: `STENT_CHAOS`, or the short form's time.
fn seconds(short: u64) -> Duration {
    let asked = std::env::var("STENT_CHAOS").map(|s| s.parse().unwrap());
    Duration::from_secs(asked.unwrap_or(short))
}

/// After a fault the gateway serves again within this time; the short form also runs where others
/// use the machine.
fn patience() -> Duration {
    let long = std::env::var_os("STENT_CHAOS").is_some();
    Duration::from_secs(if long { 10 } else { 40 })
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

/// The slowest recovery so far.
struct Slowest(&'static str, Duration);

impl Slowest {
    /// Waits until it serves after this fault, which was over at `since`.
    async fn recovered(&mut self, server: &Server, after: &'static str, since: Instant) {
        while !serves(server).await {
            assert!(
                since.elapsed() < patience(),
                "after {after}: it does not serve\n{}",
                server.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let took = since.elapsed();
        assert!(
            took < patience(),
            "{took:?} after {after}\n{}",
            server.log()
        );
        if took > self.1 {
            *self = Self(after, took);
        }
    }
}

/// The memory of a process that is not replaced, round by round.
#[derive(Default)]
struct Memory(Vec<u64>);

impl Memory {
    fn look(&mut self, server: &Server) {
        self.0.push(server.resident());
    }

    fn stayed(&self) {
        let first = self.0[self.0.len() / 3];
        let last = self.0[self.0.len() - 1];
        println!("resident {} MB, at the end {} MB", first >> 20, last >> 20);
        assert!(last < first + GROWTH, "memory grew: {:?}", self.0);
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
    let mut collector = Collector::start();
    let otlp = format!("telemetry.otlp={}", collector.address());
    let mut sets = SETS.to_vec();
    sets.push(&otlp);
    let mut disk = Disk::none();
    let mut server = Server::launch(&sets, |policies| {
        disk = Disk::mount(&policies.with_file_name("data"));
    });
    let mut slowest = Slowest("nothing", Duration::ZERO);
    let start = Instant::now();
    slowest.recovered(&server, "the first start", start).await;
    let address = server.base.trim_start_matches("http://").to_owned();

    let crowd = Crowd::gather(&server, 8, Says::Script);
    let (mut round, mut held) = (0_usize, Vec::new());
    while crowd.began.elapsed() < seconds(SHORT) || round < FAULTS.len() {
        let fault = FAULTS[round % FAULTS.len()];
        round += 1;
        let mut over = Instant::now();
        match fault {
            "a kill" | "a stop" => {
                if fault == "a stop" {
                    server.terminate();
                    server.ended().await;
                }
                // The start counts, too.
                over = Instant::now();
                server = server.again(&sets).await;
            }
            "swaps" => swaps(&server).await,
            "bad clients" => held = bad_clients(&address),
            "a full queue" => flood(&server).await,
            "a full disk" if !disk.can_be_filled() => continue,
            "a full disk" => {
                disk.fill();
                swaps(&server).await;
                disk.empty();
                over = Instant::now();
            }
            _ => {
                collector.kill();
                // Spans are made and lost meanwhile, and nobody waits for that.
                slowest.recovered(&server, fault, over).await;
                collector.restart();
            }
        }
        slowest.recovered(&server, fault, over).await;
    }
    let log = server.log();
    crowd.go_home(round, (slowest.0, slowest.1), &log).await;
    drop(held);
    collector.kill();
    assert!(collector.received > 0, "no span arrived\n{log}");
    // The disk goes before the folder that it is mounted in.
    drop(disk);
    drop(server);
}

/// Other engines come and go; one of them is there at any time. Each answer has the asker's words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_served_while_upstreams_come_and_go() {
    let mut upstreams = [Echo::start(), Echo::start()];
    let urls: Vec<String> = upstreams.iter().map(Echo::url).collect();
    let list = format!("engine.upstreams={}", serde_json::to_string(&urls).unwrap());
    let sets = [
        "engine.kind=openai",
        &list,
        "engine.upstream.health_every=100ms",
        "engine.upstream.cooldown=100ms",
        "cache.store=off",
    ];
    let server = Server::start(&sets).await;
    let crowd = Crowd::gather(&server, 6, Says::Echo);
    let mut slowest = Slowest("nothing", Duration::ZERO);
    let (mut round, mut memory) = (0_usize, Memory::default());
    while crowd.began.elapsed() < seconds(SHORT_OTHERS) || round < 6 {
        let fault = ["the kill of one upstream", "its return"][round % 2];
        let at = (round / 2) % 2;
        let begun = Instant::now();
        match round % 2 {
            0 => upstreams[at].kill(),
            _ => {
                upstreams[at].restart();
                server
                    .until("both upstreams are in use", async |s| {
                        let status = s.admin("/admin/slots").await;
                        let all = status["upstreams"].as_array().unwrap();
                        all.iter().all(|upstream| upstream["healthy"] == true)
                    })
                    .await;
            }
        }
        slowest.recovered(&server, fault, begun).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        memory.look(&server);
        round += 1;
    }
    let log = server.log();
    crowd.go_home(round, (slowest.0, slowest.1), &log).await;
    memory.stayed();
}

/// Redis dies, stands still and comes back, the gateway dies in between, and what was told to be
/// finished is found there all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_served_while_redis_comes_and_goes() {
    let faults = ["a kill of Redis", "a standstill of Redis", "a kill"];
    redis_in_trouble("refuse", &faults).await;
}

/// The same where this host remembers meanwhile: nobody is refused for it, and Redis has it all in
/// the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_refused_where_this_host_stands_in_for_redis() {
    let faults = ["a kill of Redis", "a standstill of Redis"];
    redis_in_trouble("local", &faults).await;
}

async fn redis_in_trouble(on_store_failure: &str, faults: &[&'static str]) {
    // Every write is on its disk before it is answered.
    let mut redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = format!("sessions.store={}", redis.url());
    let failure = format!("sessions.on_store_failure={on_store_failure}");
    let sets = [&SETS[..], &[&store, &failure]].concat();
    let mut server = Server::start(&sets).await;
    let crowd = Crowd::gather(&server, 6, Says::Script);
    let mut slowest = Slowest("nothing", Duration::ZERO);
    let (mut round, mut memory) = (0_usize, Memory::default());
    while crowd.began.elapsed() < seconds(SHORT_OTHERS) || round < 2 * faults.len() {
        let fault = faults[round % faults.len()];
        match fault {
            "a kill of Redis" => {
                redis.kill();
                tokio::time::sleep(Duration::from_millis(500)).await;
                redis.restart();
            }
            "a standstill of Redis" => {
                redis.pause();
                tokio::time::sleep(Duration::from_millis(1500)).await;
                redis.resume();
            }
            _ => server.kill(),
        }
        let over = Instant::now();
        if fault == "a kill" {
            server = server.again(&sets).await;
        }
        slowest.recovered(&server, fault, over).await;
        if on_store_failure == "local" {
            memory.look(&server);
        }
        round += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let log = server.log();
    let refused = crowd.refused();
    crowd.go_home(round, (slowest.0, slowest.1), &log).await;
    if on_store_failure == "local" {
        assert_eq!(refused, 0, "somebody noticed\n{log}");
        memory.stayed();
    }
}
