//! What an answer from the cache costs through the whole HTTP path, beside a bare axum handler that
//! streams the same bytes: `make bench-hits`.
//!
//! Servers and load generator share this machine, and take turns: the ratio of two rows means
//! more than either. Nothing else may run meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot go on has failed"
)]

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpStream as Blocking;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use axum::serve::ListenerExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Connections, each with one request at a time.
const CONNECTIONS: usize = 16;
/// Different questions, all of them answered before.
const QUESTIONS: usize = 64;

fn main() {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("--bare") => bare(&args.next().unwrap()),
        // What a person or the CI passes to every bench.
        _ => measure(),
    }
}

/// One server under load.
struct Target {
    name: &'static str,
    child: Child,
    port: u16,
    admin: u16,
    route: &'static str,
    body: fn(usize) -> String,
}

struct Row {
    per_second: f64,
    cpu_us: f64,
    p50: Duration,
    p99: Duration,
}

fn measure() {
    let seconds = std::env::var("HITS_SECONDS").map_or(5, |s| s.parse().unwrap());
    let length = Duration::from_secs(seconds);
    let folder = tempfile::tempdir().unwrap();
    let chat: fn(usize) -> String = |n| format!("{{\"message\":\"What is illness number {n}?\"}}");
    let openai: fn(usize) -> String = |n| {
        format!(
            "{{\"stream\":true,\"temperature\":0,\"messages\":[{{\"role\":\"user\",\
             \"content\":\"What is illness number {n}?\"}}]}}"
        )
    };
    let mut targets = vec![
        stent(
            "/chat/stream",
            folder.path(),
            "a",
            &[],
            "/chat/stream",
            chat,
        ),
        stent(
            "/chat, calls made",
            folder.path(),
            "c",
            &["policies.remember=0"],
            "/chat/stream",
            chat,
        ),
        stent(
            "/v1, no session",
            folder.path(),
            "b",
            &[],
            "/v1/chat/completions",
            openai,
        ),
    ];
    for target in &targets {
        for n in 0..QUESTIONS {
            target.ask(n);
        }
    }
    let sample = folder.path().join("answer");
    std::fs::write(&sample, target_answer(&targets[0])).unwrap();
    targets.push(handler(&sample, chat));

    println!(
        "{:<24} {:>9} {:>12} {:>9} {:>9}   {:>11} {:>9} {:>9}",
        "", "hits/s", "CPU us/hit", "p50", "p99", "half load/s", "p50", "p99"
    );
    let mut best = 0.0;
    for target in targets.iter().rev() {
        let before = target.hits();
        let full = target.load(length, None);
        let half = target.load(length, Some(full.per_second / 2.0));
        if let (Some(before), Some(after)) = (before, target.hits()) {
            let asked = (full.per_second + half.per_second) * length.as_secs_f64();
            let hits = (after - before) as f64;
            assert!(
                hits >= 0.98 * asked,
                "only {hits} of {asked} requests were hits"
            );
        }
        println!(
            "{:<24} {:>9.0} {:>12.1} {:>9} {:>9}   {:>11.0} {:>9} {:>9}",
            target.name,
            full.per_second,
            full.cpu_us,
            us(full.p50),
            us(full.p99),
            half.per_second,
            us(half.p50),
            us(half.p99)
        );
        match target.name {
            "bare axum" => best = full.per_second,
            _ => println!(
                "{:<24} {:>8.2}x of the bare handler",
                "",
                full.per_second / best
            ),
        }
    }
}

fn us(time: Duration) -> String {
    format!("{} us", time.as_micros())
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn stent(
    name: &'static str,
    folder: &std::path::Path,
    data: &str,
    sets: &[&str],
    route: &'static str,
    body: fn(usize) -> String,
) -> Target {
    let (port, admin) = (free_port(), free_port());
    let program = std::env::var("STENT").unwrap_or_else(|_| env!("CARGO_BIN_EXE_stent").into());
    let mut command = Command::new(program);
    command
        .arg("serve")
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .args(["--admin", &format!("127.0.0.1:{admin}")])
        .arg("--policies")
        .arg(folder.join(data).join("policies"))
        .arg("--data")
        .arg(folder.join(data));
    let always = [
        "engine.kind=scripted",
        "engine.script.token=0ms",
        "log.filter=warn",
        "sessions.store=memory",
        "policies.cache.scope=tenant",
        "policies.cache.config.scope=tenant",
    ];
    for set in always.iter().chain(sets) {
        command.args(["--set", set]);
    }
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STENT_")) {
        command.env_remove(name);
    }
    let child = command.stdout(Stdio::null()).spawn().unwrap();
    let target = Target {
        name,
        child,
        port,
        admin,
        route,
        body,
    };
    target.wait();
    target
}

fn handler(answer: &std::path::Path, body: fn(usize) -> String) -> Target {
    let port = free_port();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--bare", &format!("{port}={}", answer.display())])
        .spawn()
        .unwrap();
    let target = Target {
        name: "bare axum",
        child,
        port,
        admin: 0,
        route: "/chat/stream",
        body,
    };
    target.wait();
    target
}

/// Streams the frames of one answer to everybody who posts.
fn bare(argument: &str) {
    let (port, file) = argument.split_once('=').unwrap();
    let text = std::fs::read_to_string(file).unwrap();
    let frames: Arc<[Bytes]> = text
        .split_inclusive("\n\n")
        .map(|frame| Bytes::copy_from_slice(frame.as_bytes()))
        .collect();
    let routes = Router::new().route(
        "/chat/stream",
        post(move |_: Bytes| {
            let frames = Arc::clone(&frames);
            async move {
                let each = (0..frames.len()).map(move |n| Ok::<_, Infallible>(frames[n].clone()));
                let body = Body::from_stream(futures::stream::iter(each));
                ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
            }
        }),
    );
    let port: u16 = port.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
            .await
            .unwrap();
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        axum::serve(listener, routes).await.unwrap();
    });
}

impl Target {
    fn request(&self, n: usize) -> Vec<u8> {
        let body = (self.body)(n);
        format!(
            "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.route,
            body.len()
        )
        .into_bytes()
    }

    fn wait(&self) {
        let start = Instant::now();
        while Blocking::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "{}", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The whole response, head and all.
    fn ask(&self, n: usize) -> String {
        let mut stream = Blocking::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(&self.request(n)).unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 16 << 10];
        while !answer.ends_with(END) {
            let read = stream.read(&mut buffer).unwrap();
            assert!(
                read > 0,
                "{}: {}",
                self.name,
                String::from_utf8_lossy(&answer)
            );
            answer.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8(answer).unwrap()
    }

    /// Answers that came from the cache; `None` for the bare handler.
    fn hits(&self) -> Option<u64> {
        (self.admin != 0).then(|| self.cached())
    }

    /// Hits that the server counted.
    fn cached(&self) -> u64 {
        let mut stream = Blocking::connect(("127.0.0.1", self.admin)).unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics).unwrap();
        let hits = metrics
            .lines()
            .filter(|line| line.starts_with("stent_cache_total{") && line.contains("\"hit\""));
        hits.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum::<f64>() as u64
    }

    /// User and system time of the server so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// As fast as it goes, or at a set pace; a late answer counts from when it was due.
    fn load(&self, length: Duration, per_second: Option<f64>) -> Row {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (before, start) = (self.cpu(), Instant::now());
        let mut times: Vec<Duration> = runtime
            .block_on(async {
                let clients = (0..CONNECTIONS).map(|client| {
                    let requests: Vec<_> = (0..QUESTIONS).map(|n| self.request(n)).collect();
                    let pace =
                        per_second.map(|all| Duration::from_secs_f64(CONNECTIONS as f64 / all));
                    tokio::spawn(converse(self.port, requests, client, start + length, pace))
                });
                futures::future::join_all(clients).await
            })
            .into_iter()
            .flat_map(Result::unwrap)
            .collect();
        let (took, cpu) = (start.elapsed(), self.cpu() - before);
        times.sort_unstable();
        let count = times.len() as f64;
        Row {
            per_second: count / took.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / count,
            p50: times[times.len() / 2],
            p99: times[times.len() * 99 / 100],
        }
    }
}

const END: &[u8] = b"\r\n0\r\n\r\n";

async fn converse(
    port: u16,
    requests: Vec<Vec<u8>>,
    client: usize,
    end: Instant,
    pace: Option<Duration>,
) -> Vec<Duration> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut times = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    // Clients that keep a pace do not start together.
    let mut due = Instant::now()
        + pace
            .unwrap_or_default()
            .mul_f64(client as f64 / CONNECTIONS as f64);
    for request in requests.iter().cycle().skip(client * 7) {
        if let Some(pace) = pace {
            tokio::time::sleep_until(due.into()).await;
            due += pace;
        }
        let asked = pace.map_or_else(Instant::now, |pace| due - pace);
        if asked >= end {
            break;
        }
        stream.write_all(request).await.unwrap();
        let mut read = 0;
        while !buffer[..read].ends_with(END) {
            let more = stream.read(&mut buffer[read..]).await.unwrap();
            assert!(more > 0, "the server closed the connection");
            read += more;
        }
        assert!(
            buffer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&buffer[..read])
        );
        times.push(asked.elapsed());
    }
    times
}

fn target_answer(target: &Target) -> String {
    let answer = target.ask(0);
    assert!(answer.contains("\"cached\":true"), "{answer}");
    let (_, chunks) = answer.split_once("\r\n\r\n").unwrap();
    // Chunks have their length in front.
    let mut text = String::new();
    let mut rest = chunks;
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        text.push_str(&after[..length]);
        rest = &after[length + 2..];
        if length == 0 {
            break;
        }
    }
    text
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
