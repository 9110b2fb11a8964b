//! What the gateway costs beside a bare axum handler that streams the same bytes, and how quickly
//! it refuses what it has no place for: `make bench-gateway`.
//!
//! Both servers are processes of their own, driven in turns by the same client over loopback, with
//! the scripted engine at no pace: what is measured is the gateway with its policies. Requests are
//! sent by the clock, 2,000 a second, whether or not earlier ones are answered; a latency counts
//! from the moment at which its request was due.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on may stop"
)]

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::routing::post;
use axum::serve::ListenerExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const RATE: u32 = 2000;
const ROUNDS: usize = 3;
const SECONDS: u32 = 5;
const CONNECTIONS: usize = 128;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if let Some(at) = arguments.iter().position(|a| a == "--bare") {
        let port: u16 = arguments[at + 1].parse().unwrap();
        return runtime.block_on(bare(port, std::fs::read(&arguments[at + 2]).unwrap()));
    }
    runtime.block_on(overhead());
    runtime.block_on(overload());
}

/// The other server: reads the body, streams the frames.
async fn bare(port: u16, answer: Vec<u8>) {
    let text = String::from_utf8(answer).unwrap();
    let frames: Arc<[Bytes]> = text
        .split_inclusive("\n\n")
        .map(|f| Bytes::from(f.to_owned()))
        .collect();
    let handler = move |_: Bytes| {
        let frames = Arc::clone(&frames);
        async move {
            let frames = (0..frames.len()).map(move |n| Ok::<_, std::io::Error>(frames[n].clone()));
            let body = Body::from_stream(futures::stream::iter(frames));
            ([("content-type", "text/event-stream")], body)
        }
    };
    let router = axum::Router::new().route("/chat/stream", post(handler));
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    // As Stent does it: small frames would wait for the client's acknowledgement otherwise.
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
    axum::serve(listener, router).await.unwrap();
}

/// A server process that ends with this value.
struct Server {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn stent(sets: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, admin) = (free_port(), free_port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_stent"));
        command
            .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
            .args(["--admin", &format!("127.0.0.1:{admin}")])
            .args(["--set", "engine.kind=scripted", "--set", "log.filter=error"])
            .arg("--policies")
            .arg(folder.path().join("policies"))
            .arg("--data")
            .arg(folder.path().join("data"));
        for set in sets {
            command.args(["--set", set]);
        }
        Self::start(command, port, folder).await
    }

    async fn bare(answer: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, file) = (free_port(), folder.path().join("answer"));
        std::fs::write(&file, answer).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--bare", &port.to_string()]).arg(file);
        Self::start(command, port, folder).await
    }

    async fn start(mut command: Command, port: u16, folder: tempfile::TempDir) -> Self {
        std::fs::create_dir_all(folder.path().join("policies")).unwrap();
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let start = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "no server came up"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self {
            child,
            address,
            _folder: folder,
        }
    }

    /// CPU time of the process so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // A tick is 10 ms on Linux (USER_HZ).
        Duration::from_millis(ticks * 10)
    }

    fn resident(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A connection that asks one question after the other.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::with_capacity(16 << 10),
        }
    }

    /// The status; the answer lies in the buffer.
    async fn ask(&mut self, number: usize) -> u16 {
        // Each question is another one: the cache is asked and has nothing.
        self.post(format!("{{\"message\":\"question {number}\"}}"))
            .await
    }

    /// Somebody who comes back.
    async fn ask_in(&mut self, session: usize, number: usize) -> u16 {
        let body = format!("{{\"message\":\"question {number}\",\"session_id\":\"s{session}\"}}");
        self.post(body).await
    }

    async fn post(&mut self, body: String) -> u16 {
        let head = format!(
            "POST /chat/stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(head.as_bytes()).await.unwrap();
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert!(read > 0, "the connection was closed");
            let status = self
                .buffer
                .get(9..12)
                .map(|s| std::str::from_utf8(s).unwrap().parse::<u16>().unwrap());
            match status {
                // The last chunk of a stream.
                Some(200) if self.buffer.ends_with(b"0\r\n\r\n") => return 200,
                Some(200) | None => {}
                // A refusal comes whole.
                Some(status) if self.buffer.ends_with(b"}") => return status,
                Some(_) => {}
            }
        }
    }

    /// The payload of the last answer, without the chunks around it.
    fn payload(&self) -> Vec<u8> {
        let at = self
            .buffer
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .unwrap()
            + 4;
        let (mut rest, mut payload) = (&self.buffer[at..], Vec::new());
        loop {
            let line = rest.windows(2).position(|w| w == b"\r\n").unwrap();
            let size =
                usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
            if size == 0 {
                return payload;
            }
            payload.extend(&rest[line + 2..line + 2 + size]);
            rest = &rest[line + 4 + size..];
        }
    }
}

/// One load's figures.
struct Figures {
    p50: f64,
    p99: f64,
    cpu_us: f64,
    rate: f64,
}

/// `rate` requests a second for `seconds`; `None`: as many as the connections carry.
async fn drive(server: &Server, rate: Option<u32>, seconds: u32) -> Figures {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::new(server.address).await);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let (cpu, start) = (server.cpu(), Instant::now());
    let end = Duration::from_secs(u64::from(seconds));
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let next = Arc::clone(&next);
            tokio::spawn(async move {
                let mut took = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let due = match rate {
                        Some(rate) => Duration::from_secs_f64(number as f64 / f64::from(rate)),
                        None => start.elapsed(),
                    };
                    if due >= end {
                        return took;
                    }
                    tokio::time::sleep_until((start + due).into()).await;
                    // tokio's clock ticks in milliseconds: the request counts from its sending
                    // where that came first.
                    let due = due.max(start.elapsed().min(due + Duration::from_millis(1)));
                    assert_eq!(client.ask(number).await, 200);
                    took.push(start.elapsed() - due);
                }
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    let elapsed = start.elapsed();
    took.sort();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    Figures {
        p50: at(0.5),
        p99: at(0.99),
        cpu_us: (server.cpu() - cpu).as_secs_f64() * 1e6 / took.len() as f64,
        rate: took.len() as f64 / elapsed.as_secs_f64(),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn overhead() {
    let stent = Server::stent(&["engine.queue=1000"]).await;
    // Without the disk's part: nothing that was said outlives the process.
    let memory = Server::stent(&["engine.queue=1000", "sessions.store=memory"]).await;
    let mut first = Client::new(stent.address).await;
    assert_eq!(first.ask(usize::MAX).await, 200);
    let answer = first.payload();
    let frames = answer.windows(2).filter(|w| w == b"\n\n").count();
    let bare = Server::bare(&answer).await;
    println!(
        "{} bytes in {frames} frames an answer; {RATE} requests/s, {ROUNDS} rounds of {SECONDS} s in turns",
        answer.len()
    );
    // Warm both: pools, caches, the allocator.
    for server in [&bare, &stent, &memory] {
        drive(server, Some(RATE / 2), 2).await;
    }
    let (mut of_bare, mut of_stent, mut of_memory) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        for (name, server, figures) in [
            ("bare", &bare, &mut of_bare),
            ("stent", &stent, &mut of_stent),
            ("memory", &memory, &mut of_memory),
        ] {
            let found = drive(server, Some(RATE), SECONDS).await;
            println!(
                "round {round} {name:6}: {:6.0}/s, p50 {:.3} ms, p99 {:.3} ms, CPU {:.0} us a request",
                found.rate, found.p50, found.p99, found.cpu_us
            );
            figures.push(found);
        }
    }
    for (name, found) in [("stent", &of_stent), ("memory", &of_memory)] {
        let added = |what: fn(&Figures) -> f64| {
            let of = |all: &[Figures]| median(all.iter().map(what).collect());
            of(found) - of(&of_bare)
        };
        println!(
            "added by {name}: p50 {:.3} ms, p99 {:.3} ms, CPU {:.0} us a request",
            added(|f| f.p50),
            added(|f| f.p99),
            added(|f| f.cpu_us)
        );
    }
    for (name, server) in [("bare", &bare), ("stent", &stent), ("memory", &memory)] {
        let most = drive(server, None, 3).await;
        println!(
            "as fast as it goes, {name:6}: {:.0}/s, CPU {:.0} us a request",
            most.rate, most.cpu_us
        );
    }
}

/// 200 clients, four slots, a queue of 64: whoever is refused knows at once.
async fn overload() {
    const CLIENTS: usize = 200;
    // What may grow is bounded so that the first waves reach the bounds.
    let sets = [
        "engine.queue=64",
        "engine.script.token=5ms",
        "engine.kv_park_bytes=64KiB",
        "cache.max_bytes=256KiB",
        "policies.remember=256KiB",
        "sessions.max_exchanges=4",
    ];
    let server = Server::stent(&sets).await;
    let mut before = 0;
    for wave in 0..4 {
        let start = Instant::now();
        let mut tasks = Vec::new();
        for client in 0..CLIENTS {
            let mut client_of = Client::new(server.address).await;
            tasks.push(tokio::spawn(async move {
                let (mut refused, mut answered) = (Vec::new(), 0);
                for n in 0..20 {
                    let asked = Instant::now();
                    let number = wave * 1_000_000 + client * 1000 + n;
                    match client_of.ask_in(client, number).await {
                        200 => answered += 1,
                        429 => {
                            let head = String::from_utf8_lossy(&client_of.buffer).to_lowercase();
                            assert!(head.contains("retry-after: "), "{head}");
                            refused.push(asked.elapsed());
                            // Sooner than it was told, later than at once.
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                        other => panic!("status {other}"),
                    }
                }
                (refused, answered)
            }));
        }
        let (mut refused, mut answered) = (Vec::new(), 0);
        for task in tasks {
            let (times, count) = task.await.unwrap();
            refused.extend(times);
            answered += count;
        }
        refused.sort();
        let p99 = refused[(refused.len() - 1) * 99 / 100].as_secs_f64() * 1e3;
        println!(
            "{CLIENTS} clients, wave {wave}: {answered} answered, {} refused, p99 of the refusals {p99:.1} ms, \
             {:.0} answers/s, {} MiB resident",
            refused.len(),
            f64::from(answered) / start.elapsed().as_secs_f64(),
            server.resident() >> 20,
        );
        if wave == 1 {
            before = server.resident();
        }
    }
    let grown = server.resident().saturating_sub(before) >> 20;
    println!("memory after the last wave beside the second: {grown} MiB more");
}
