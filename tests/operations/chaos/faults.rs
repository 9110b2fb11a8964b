//! What breaks, and the parts of it that can be broken on purpose.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use stent::trace::Protocol;

use crate::support::otlp::Receiver;
use crate::support::server::{Server, bundled};

/// Clients that no server likes: silent, half, garbage, gone in the middle. They stay for as long as
/// they are held.
pub fn bad_clients(address: &str) -> Vec<TcpStream> {
    let head = "POST /chat/stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let body = "{\"message\":\"leaves\"}";
    let whole = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let come = |bytes: &str| {
        let mut stream = TcpStream::connect(address).ok()?;
        let _ = stream.write_all(bytes.as_bytes());
        Some(stream)
    };
    let mut held = Vec::new();
    for _ in 0..10 {
        for bytes in [
            "",
            "GET /chat",
            "\u{0}\u{1}\u{2}garbage\r\n\r\n",
            &format!("{head}content-length: 1000\r\n\r\n{{\"mess"),
            &format!("{head}content-length: 99999999999\r\n\r\n"),
            // Asks and never reads.
            &whole,
        ] {
            held.extend(come(bytes));
        }
        // Asks and leaves.
        drop(come(&whole));
    }
    // A letter now and then, for as long as the gateway bears it.
    if let Ok(mut slow) = TcpStream::connect(address) {
        std::thread::spawn(move || {
            for byte in head.bytes().take(40) {
                if slow.write_all(&[byte]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }
    held
}

/// A small disk of its own for the data folder, where this user may mount one; taken away at the
/// end.
pub struct Disk(Option<PathBuf>);

impl Disk {
    pub fn none() -> Self {
        Self(None)
    }

    pub fn mount(folder: &Path) -> Self {
        std::fs::create_dir(folder).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=32m", "stent-chaos"])
            .arg(folder)
            .stderr(Stdio::null())
            .status();
        let mounted = mount.is_ok_and(|status| status.success());
        if !mounted {
            println!("this user may not mount a disk: none is filled");
        }
        Self(mounted.then(|| folder.to_owned()))
    }

    pub fn can_be_filled(&self) -> bool {
        self.0.is_some()
    }

    /// Takes all room that is left.
    pub fn fill(&self) {
        let Some(folder) = &self.0 else { return };
        let mut file = std::fs::File::create(folder.join("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        while file.write_all(&[1]).is_ok() {}
    }

    pub fn empty(&self) {
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

/// A trace collector that can be away.
pub struct Collector {
    port: u16,
    receiver: Option<Receiver>,
    pub received: usize,
}

impl Collector {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        Self {
            port,
            receiver: Some(Receiver::on(listener, Protocol::Http, Duration::ZERO)),
            received: 0,
        }
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it had received goes with it.
    pub fn kill(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            self.received += receiver.count();
        }
    }

    pub fn restart(&mut self) {
        self.kill();
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        self.receiver = Some(Receiver::on(listener, Protocol::Http, Duration::ZERO));
    }
}

/// Policies that come faster than anybody could want them, every second one broken.
pub async fn swaps(server: &Server) {
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

pub async fn flood(server: &Server) {
    let asks = (0..60).map(|n| {
        let body = json!({ "message": format!("flood {n}") });
        let url = format!("{}/chat", server.base);
        server.client.post(url).json(&body).send()
    });
    futures::future::join_all(asks).await;
}

/// An engine elsewhere that says back what it was asked last; killed when dropped.
pub struct Echo {
    port: u16,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Echo {
    pub fn start() -> Self {
        let mut echo = Self {
            port: crate::support::server::free_port(),
            runtime: None,
        };
        echo.restart();
        echo
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// All its connections break.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub fn restart(&mut self) {
        use axum::routing::{get, post};
        self.kill();
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let models = async || axum::Json(json!({ "data": [{ "id": "echo" }] }));
        let routes = axum::Router::new()
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(said_back));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, routes).await.unwrap();
        });
        self.runtime = Some(runtime);
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn said_back(axum::Json(asked): axum::Json<Value>) -> axum::response::Response {
    let last = asked["messages"].as_array().unwrap().last().unwrap();
    let mut frames = Vec::new();
    for piece in ["you ", "said ", last["content"].as_str().unwrap()] {
        let piece = json!({ "choices": [{ "delta": { "content": piece } }] });
        frames.push(format!("data: {piece}\n\n"));
    }
    let end = json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }] });
    frames.push(format!("data: {end}\n\ndata: [DONE]\n\n"));
    let slowly = futures::StreamExt::then(futures::stream::iter(frames), async |frame| {
        tokio::time::sleep(Duration::from_millis(3)).await;
        Ok::<_, std::io::Error>(frame)
    });
    let body = axum::body::Body::from_stream(slowly);
    let head = axum::http::Response::builder().header("content-type", "text/event-stream");
    head.body(body).unwrap()
}
