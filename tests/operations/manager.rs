//! The service manager's side: what it is told, and the sockets that it passes.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::server::{command, free_port};

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a message that contains `what`; returns all that came until then.
fn hear(socket: &UnixDatagram, what: &str) -> Vec<String> {
    let (mut heard, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < PATIENCE {
        let mut message = [0; 4096];
        if let Ok(n) = socket.recv(&mut message) {
            heard.push(String::from_utf8_lossy(&message[..n]).into_owned());
            if heard.last().is_some_and(|last| last.contains(what)) {
                return heard;
            }
        }
    }
    panic!("{what} was not heard, only {heard:?}");
}

#[test]
fn readiness_life_and_the_end_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let mut child = command()
        .args(["serve", "--set", "engine.kind=scripted"])
        .args(["--listen", &format!("127.0.0.1:{}", free_port())])
        .args(["--admin", &format!("127.0.0.1:{}", free_port())])
        .arg("--policies")
        .arg(folder.path().join("policies"))
        .arg("--data")
        .arg(folder.path().join("data"))
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let heard = hear(&socket, "READY=1");
    assert!(
        heard.last().unwrap().contains("STATUS=serves scripted"),
        "{heard:?}"
    );
    hear(&socket, "WATCHDOG=1");
    hear(&socket, "WATCHDOG=1");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    hear(&socket, "STOPPING=1");
    assert!(child.wait().unwrap().success());
}
