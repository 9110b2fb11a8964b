//! What the listeners promise: backlog, keep-alive, and pages of other origins.

#![expect(unsafe_code, reason = "no crate here asks for a listener's TCP_INFO")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::support::server::Server;

/// `tcpi_sacked` of a listening socket is its backlog (Linux, `tcp_get_info`).
fn backlog(socket: &impl AsRawFd) -> u32 {
    // SAFETY: tcp_info is plain numbers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = std::mem::size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes into `info`, which lives until the call ends.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &mut size,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    info.tcpi_sacked
}

#[tokio::test]
async fn the_kernel_keeps_as_many_connections_waiting_as_configured() {
    let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let allowed: u32 = allowed.trim().parse().unwrap();
    for asked in [2048, 100] {
        let free = "127.0.0.1:0".parse().unwrap();
        let listener = stent::http::listen("server.listen", free, asked).unwrap();
        assert_eq!(backlog(&listener), asked.min(allowed));
    }
}

#[tokio::test]
async fn an_idle_connection_lives_for_the_keep_alive_time_and_no_longer() {
    let sets = ["engine.kind=scripted", "server.keep_alive=1s"];
    let server = Server::start(&sets).await;
    let address = server.base.trim_start_matches("http://").to_owned();
    let idle = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut ask = || {
            let request = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
            stream.write_all(request).unwrap();
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).unwrap();
            assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
        };
        ask();
        // The same connection serves again.
        ask();
        let start = Instant::now();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        start.elapsed()
    });
    let idle = idle.await.unwrap();
    let expected = Duration::from_millis(900)..Duration::from_secs(10);
    assert!(expected.contains(&idle), "closed after {idle:?}");
}

#[tokio::test]
async fn a_page_of_a_configured_origin_may_call_and_no_other() {
    let sets = [
        "engine.kind=scripted",
        "server.cors_origins=[\"http://localhost:3000\"]",
    ];
    let server = Server::start(&sets).await;
    for (origin, allowed) in [
        ("http://localhost:3000", true),
        ("http://evil.example", false),
    ] {
        let preflight = server
            .client
            .request(
                reqwest::Method::OPTIONS,
                format!("{}/chat/stream", server.base),
            )
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "content-type,traceparent,x-request-id,last-event-id",
            )
            .send()
            .await
            .unwrap();
        let granted = preflight.headers().get("access-control-allow-origin");
        assert_eq!(
            granted.is_some_and(|value| value == origin),
            allowed,
            "{origin}"
        );
        let headers = &preflight.headers()["access-control-allow-headers"];
        let headers = headers.to_str().unwrap().to_lowercase();
        for name in [
            "content-type",
            "traceparent",
            "x-request-id",
            "last-event-id",
        ] {
            assert!(headers.contains(name), "{name} is not in {headers}");
        }
    }
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_counted() {
    let server = Server::start(&["engine.kind=scripted", "server.max_connections=5"]).await;
    // Without a kept connection of its own.
    let client = reqwest::Client::builder().pool_max_idle_per_host(0);
    let client = client.build().unwrap();
    let health = async || {
        let asked = client.get(format!("{}/health", server.base)).send();
        asked.await.unwrap()
    };
    let address = server.base.trim_start_matches("http://").to_owned();
    let connect = || TcpStream::connect(&address).unwrap();
    // The one that asked whether it is ready may still be kept.
    let mut held = Vec::new();
    let mut times = 0;
    let refused = loop {
        let answer = health().await;
        if answer.status() == 200 {
            held.push(connect());
            assert!(held.len() < 9, "nobody was refused");
            continue;
        }
        assert_eq!(answer.status(), 503);
        times += 1;
        if times == 2 {
            break answer;
        }
    };
    assert!(held.len() >= 2, "{}", held.len());
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(refused.headers()["connection"], "close");
    let error: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(error["error"]["code"], "too_many_connections");
    let told = error["error"]["message"].as_str().unwrap();
    assert!(told.contains("5 connections") && told.contains("server.max_connections"));
    // Operators get in all the same, and see it.
    let metrics = server.metrics().await;
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("stent_connections_refused_total "))
        .unwrap();
    assert!(count.parse::<f64>().unwrap() >= 2.0, "{count}");
    assert!(server.gauge("stent_connections").await >= 3);
    assert!(
        server
            .log()
            .contains("connections are refused: server.max_connections")
    );
    // Who leaves makes room.
    drop(held);
    server
        .until("there is room again", async |_| {
            health().await.status() == 200
        })
        .await;
}
