//! The real binary, serving on ports of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A running `stent serve`; killed when dropped.
pub struct Server {
    child: Child,
    ports: (u16, u16),
    pub base: String,
    pub admin: String,
    /// Policies, data and log.
    pub folder: tempfile::TempDir,
    pub client: reqwest::Client,
}

/// Long enough for a machine that builds something else at the same time.
const PATIENCE: Duration = Duration::from_secs(60);

impl Server {
    /// Starts with these `--set` values on top of small defaults and waits until it is ready.
    pub async fn start(sets: &[&str]) -> Self {
        Self::start_with(sets, &[]).await
    }

    /// With further environment variables.
    pub async fn start_with(sets: &[&str], vars: &[(&str, &str)]) -> Self {
        let server = Self::launch_with(sets, vars, |_| {});
        server
            .until("the server is ready", async |s| {
                s.client
                    .get(format!("{}/ready", s.base))
                    .send()
                    .await
                    .is_ok_and(|r| r.status() == 200)
            })
            .await;
        server
    }

    /// Does not wait; `prepare` is given the policies folder before the server sees it. A
    /// `stent.toml` that it puts beside the folder is the configuration file.
    pub fn launch(sets: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        Self::launch_with(sets, &[], prepare)
    }

    fn launch_with(sets: &[&str], vars: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        stent::tls::install();
        let folder = tempfile::tempdir().unwrap();
        let policies = folder.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        prepare(&policies);
        let (public, admin) = (free_port(), free_port());
        Self {
            child: spawn(folder.path(), (public, admin), sets, vars),
            ports: (public, admin),
            base: format!("http://127.0.0.1:{public}"),
            admin: format!("http://127.0.0.1:{admin}"),
            folder,
            client: reqwest::Client::new(),
        }
    }

    /// Starts again, with the same ports and folder, and waits until it is ready.
    pub async fn again(mut self, sets: &[&str]) -> Self {
        self.kill();
        self.child = spawn(self.folder.path(), self.ports, sets, &[]);
        self.client = reqwest::Client::new();
        self.until("the server is ready again", async |s| {
            let ready = s.client.get(format!("{}/ready", s.base)).send().await;
            ready.is_ok_and(|response| response.status() == 200)
        })
        .await;
        self
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, by its name without SIG.
    pub fn signal(&self, name: &str) {
        self.signal_pid(u64::from(self.child.id()), name);
    }

    pub fn signal_pid(&self, pid: u64, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), pid.to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits until it holds, and says what it waited for when it does not.
    pub async fn until(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self).await {
            assert!(
                start.elapsed() < PATIENCE,
                "{what}: not within {PATIENCE:?}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn policies(&self) -> PathBuf {
        self.folder.path().join("policies")
    }

    pub async fn post(&self, route: &str, body: Value) -> reqwest::Response {
        self.client
            .post(format!("{}{route}", self.base))
            .json(&body)
            .send()
            .await
            .unwrap()
    }

    /// `POST /chat`, which must succeed.
    pub async fn chat(&self, message: &str, session: &str) -> Value {
        let body = serde_json::json!({ "message": message, "session_id": session });
        let response = self.post("/chat", body).await;
        assert_eq!(response.status(), 200, "{}", self.log());
        response.json().await.unwrap()
    }

    pub async fn admin(&self, route: &str) -> Value {
        self.json(format!("{}{route}", self.admin)).await
    }

    /// A session as `GET /sessions/{id}` tells it.
    pub async fn session(&self, id: &str) -> Value {
        self.json(format!("{}/sessions/{id}", self.base)).await
    }

    async fn json(&self, url: String) -> Value {
        let response = self.client.get(url).send().await.unwrap();
        response.json().await.unwrap()
    }

    /// A gauge of `/metrics` that has no labels.
    pub async fn gauge(&self, name: &str) -> u64 {
        let metrics = self.metrics().await;
        let line = metrics
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        let value = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
        value.parse::<f64>().unwrap() as u64
    }

    pub async fn metrics(&self) -> String {
        let response = self.client.get(format!("{}/metrics", self.admin));
        response.send().await.unwrap().text().await.unwrap()
    }

    /// Memory of the server's process, in bytes.
    pub fn resident(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.child.id());
        let statm = std::fs::read_to_string(path).unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    }

    pub async fn idle_slots(&self) -> usize {
        let status = self.admin("/admin/slots").await;
        let slots = status["slots"].as_array().unwrap();
        slots.iter().filter(|slot| slot["state"] == "idle").count()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// The exit status, once it has ended.
    pub async fn ended(&mut self) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(start.elapsed() < PATIENCE, "it did not end\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process, with the small defaults and these `--set` values on top.
fn spawn(
    folder: &Path,
    (public, admin): (u16, u16),
    sets: &[&str],
    vars: &[(&str, &str)],
) -> Child {
    let mut command = command();
    command
        .arg("serve")
        .args(["--listen", &format!("127.0.0.1:{public}")])
        .args(["--admin", &format!("127.0.0.1:{admin}")])
        .arg("--policies")
        .arg(folder.join("policies"))
        .arg("--data")
        .arg(folder.join("data"))
        .arg("--model")
        .arg(demo_model())
        .args(["--set", "engine.n_ctx=2048", "--set", "engine.mlock=false"]);
    // What is longer than an argument may be.
    let file = folder.join("stent.toml");
    if file.exists() {
        command.arg("--config").arg(file);
    }
    for set in sets {
        command.args(["--set", set]);
    }
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .unwrap();
    command
        .envs(vars.iter().copied())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// The binary under test, without this process's own STENT_ variables.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stent"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STENT_")) {
        command.env_remove(name);
    }
    command
}

pub fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/stent-demo.gguf")
}

/// A bundled policy as a core module.
pub fn bundled(name: &str) -> Vec<u8> {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist");
    std::fs::read(dist.join(name).with_extension("wasm")).unwrap()
}

/// A port that is free and given out once. It lies below those that the system takes for outgoing
/// connections, so that it is still free when a server comes back to it.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 12_000..32_768;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Test processes that run side by side begin at different places.
    let first = std::process::id().wrapping_mul(401);
    loop {
        let n = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + (n % u32::from(PORTS.end - PORTS.start)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The `data:` payloads of a stream, as they come.
pub struct Frames {
    response: reqwest::Response,
    buffer: String,
}

impl Frames {
    pub fn of(response: reqwest::Response) -> Self {
        Self {
            response,
            buffer: String::new(),
        }
    }

    /// The next payload; `None` after the last byte.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let data = event.strip_prefix("data: ").map(str::to_owned);
                self.buffer = rest.to_owned();
                match data {
                    Some(data) => return Some(data),
                    None => continue,
                }
            }
            let chunk = self.response.chunk().await.unwrap()?;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// All remaining payloads as JSON; the stream must end with `[DONE]`.
    pub async fn rest(mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        while let Some(data) = self.next().await {
            if data == "[DONE]" {
                assert_eq!(self.next().await, None, "nothing comes after [DONE]");
                return frames;
            }
            frames.push(serde_json::from_str(&data).unwrap());
        }
        panic!("the stream ended without [DONE]: {frames:?}");
    }
}

/// The answer's text and its summary.
pub fn told(frames: &[Value]) -> (String, Value) {
    let text = frames
        .iter()
        .filter(|frame| frame["type"] == "text-delta")
        .map(|frame| frame["delta"].as_str().unwrap())
        .collect();
    let summary = frames.iter().find(|frame| frame["id"] == "summary");
    (
        text,
        summary
            .map(|frame| frame["data"].clone())
            .unwrap_or_default(),
    )
}
