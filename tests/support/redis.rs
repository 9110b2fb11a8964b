//! Debian's redis-server, on a port and in a folder of its own.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::server::free_port;

/// A running server; killed when dropped.
pub struct RedisServer {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
    options: Vec<String>,
}

/// Long enough for a machine that builds something else at the same time.
const PATIENCE: Duration = Duration::from_secs(30);

impl RedisServer {
    /// Keeps nothing on disk.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With further options, such as `["--maxmemory", "1mb"]`.
    pub fn with(options: &[&str]) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let child = spawn(port, &folder, &options);
        let server = Self {
            child,
            port,
            folder,
            options,
        };
        server.until_it_answers();
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// One command and its answer as text.
    pub fn ask(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(command)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same address again, empty unless the options keep something.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.port, &self.folder, &self.options);
        self.until_it_answers();
    }

    /// SIGSTOP: connections are accepted by the kernel, and nothing is ever answered.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    fn until_it_answers(&self) {
        let start = Instant::now();
        while self.ask(&["ping"]) != "PONG" {
            assert!(start.elapsed() < PATIENCE, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn spawn(port: u16, folder: &tempfile::TempDir, options: &Vec<String>) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--dir"])
        .arg(folder.path())
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .spawn()
        .expect("redis-server: `make redis` installs it")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Also a stopped process dies of SIGKILL.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
