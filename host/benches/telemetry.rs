//! What telemetry costs a request: the same gateway with nothing exported, with a collector, and with
//! collectors that are down, hung or slow.
//!
//!     cargo bench --locked --bench telemetry        (make bench-telemetry)
//!
//! Every gateway is a process of its own with the scripted engine, which answers at once: what is
//! measured is the gateway. They are asked in turns, so that what disturbs the machine disturbs all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on has failed"
)]

#[path = "../../tests/support/otlp.rs"]
#[allow(dead_code, reason = "what only tests use")]
mod otlp;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use otlp::Receiver;
use stent::trace::Protocol;

/// Measured requests of each gateway, after some that warm it up.
const REQUESTS: usize = 4000;
const WARM: usize = 300;

struct Gateway {
    name: &'static str,
    child: Child,
    admin: String,
    connection: BufReader<TcpStream>,
    times: Vec<Duration>,
    _folder: tempfile::TempDir,
}

impl Gateway {
    fn start(name: &'static str, sets: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (public, admin) = (free(), free());
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_stent"));
        command
            .args(["serve", "--listen", &public, "--admin", &admin])
            .args(["--policies", &path("policies"), "--data", &path("data")])
            // The same work for each request: no answer is shared, nothing is printed, and no disk
            // is waited for, which takes a hundred times as long as what is looked for.
            .args(["--set", "engine.kind=scripted", "--set", "cache.store=off"])
            .args(["--set", "sessions.store=memory"])
            .args(["--set", "log.filter=warn"]);
        for set in sets {
            command.args(["--set", set]);
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = command.stderr(log).stdin(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        let connection = loop {
            match TcpStream::connect(&public) {
                Ok(stream) => break stream,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "{name}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        connection.set_nodelay(true).unwrap();
        Self {
            name,
            child,
            admin,
            connection: BufReader::new(connection),
            times: Vec::with_capacity(REQUESTS),
            _folder: folder,
        }
    }

    /// One request on the open connection; the server mints a session for it.
    fn ask(&mut self) -> Duration {
        let body = r#"{"message":"What is diabetes?","seed":"random"}"#;
        let head = format!(
            "POST /chat HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let start = Instant::now();
        let stream = self.connection.get_mut();
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            self.connection.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        self.connection.read_exact(&mut answer).unwrap();
        let took = start.elapsed();
        assert!(
            answer.ends_with(b"}") && !answer.starts_with(b"{\"error"),
            "{}",
            self.name
        );
        took
    }

    /// Spans that ended, and those that were lost.
    fn spans(&self) -> (u64, u64) {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream
            .write_all(format!("GET /metrics HTTP/1.0\r\nhost: {}\r\n\r\n", self.admin).as_bytes())
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.0 200"), "{text}");
        let value = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.map_or(0, |value| value.parse().unwrap())
        };
        (
            value("stent_spans_ended_total"),
            value("stent_spans_dropped_total"),
        )
    }

    /// The time that `percent` of the requests stayed below, in microseconds.
    fn percentile(&self, percent: usize) -> f64 {
        let mut times = self.times.clone();
        times.sort();
        times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e6
    }

    /// Seconds that it took to end after SIGTERM.
    fn end(mut self) -> f64 {
        let start = Instant::now();
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        self.child.wait().unwrap();
        start.elapsed().as_secs_f64()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn to(address: &str, protocol: &str) -> Vec<String> {
    vec![
        format!("telemetry.otlp={address}"),
        format!("telemetry.protocol={protocol}"),
    ]
}

fn main() {
    // `cargo test --benches` only wants to know that it starts.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    stent::tls::install();
    let (grpc, http) = (
        Receiver::start(Protocol::Grpc),
        Receiver::start(Protocol::Http),
    );
    let slow = Receiver::slow(Protocol::Grpc, Duration::from_secs(2));
    // The kernel accepts connections that nobody ever answers.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf = format!("http://{}", deaf.local_addr().unwrap());
    let mut gateways = [
        Gateway::start("off", &[]),
        Gateway::start("gRPC", &to(&grpc.endpoint(), "grpc")),
        Gateway::start("HTTP", &to(&http.endpoint(), "http")),
        Gateway::start("down", &to(&format!("http://{}", free()), "grpc")),
        Gateway::start("hung", &to(&deaf, "grpc")),
        Gateway::start("slow, 2 s a batch", &to(&slow.endpoint(), "grpc")),
    ];
    for round in 0..WARM + REQUESTS {
        for gateway in &mut gateways {
            let took = gateway.ask();
            if round >= WARM {
                gateway.times.push(took);
            }
        }
    }
    let off = [gateways[0].percentile(50), gateways[0].percentile(99)];
    println!("{REQUESTS} requests each, in turns, one at a time; microseconds");
    println!(
        "| collector | p50 | p50 over off | p99 | p99 over off | spans ended | dropped | end after SIGTERM |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for gateway in gateways {
        let name = gateway.name;
        let [p50, p99] = [gateway.percentile(50), gateway.percentile(99)];
        let (ended, dropped) = gateway.spans();
        let end = gateway.end();
        println!(
            "| {name} | {p50:.0} | {:+.0} | {p99:.0} | {:+.0} | {ended} | {dropped} | {end:.1} s |",
            p50 - off[0],
            p99 - off[1],
        );
    }
}
