//! Whatever goes wrong, on either address: one shape of error, as JSON.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::server::Server;

/// Sends these bytes to the address, and reads all that comes back.
async fn raw(base: &str, bytes: &[u8]) -> String {
    let address = base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // What is not read of a request may end the connection with a reset, after the answer.
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        answer.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(answer).unwrap()
}

/// Status and error of a response.
fn read(answer: &str) -> (u16, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let json = "content-type: application/json";
    assert!(head.to_lowercase().contains(json), "{answer}");
    let length = format!("content-length: {}", body.len());
    assert!(head.to_lowercase().contains(&length), "{answer}");
    (status, serde_json::from_str(body).unwrap())
}

fn request(method: &str, path: &str, head: &str, body: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{head}\r\n{body}")
        .into_bytes()
}

/// A JSON body's request.
fn post(path: &str, body: &str) -> Vec<u8> {
    let head = format!(
        "content-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    request("POST", path, &head, body)
}

#[tokio::test]
async fn each_failure_has_one_shape_on_both_addresses() {
    let sets = [
        "engine.kind=scripted",
        "server.max_head=8KiB",
        "server.max_body=2KiB",
        "server.body_timeout=300ms",
    ];
    let server = Server::start(&sets).await;
    let long = "x".repeat(9000);
    let big = format!("{{\"message\":\"{}\"}}", "x".repeat(3000));
    let slow = "content-type: application/json\r\ncontent-length: 99\r\n";
    let plain = "content-type: text/plain\r\ncontent-length: 2\r\n";
    let both = [
        (&server.base, ("/chat", "/health")),
        (
            &server.admin,
            ("/admin/policies/trim/config", "/admin/slots"),
        ),
    ];
    for (base, (takes, gives)) in both {
        for (bytes, status, code) in [
            (post(takes, "{\"message\": "), 400, "malformed_body"),
            (post(takes, &big), 413, "body_too_large"),
            (request("POST", takes, slow, "{"), 408, "slow_body"),
            (
                request("POST", takes, plain, "{}"),
                415,
                "unsupported_media_type",
            ),
            (request("PATCH", takes, "", ""), 405, "method_not_allowed"),
            (
                request("PUT", gives, "content-length: 0\r\n", ""),
                405,
                "method_not_allowed",
            ),
            (request("GET", "/nowhere", "", ""), 404, "not_found"),
            (request("GET", "/admin/nowhere", "", ""), 404, "not_found"),
            (
                request("GET", gives, &format!("x-long: {long}\r\n"), ""),
                431,
                "head_too_large",
            ),
            (
                request("GET", &format!("/{long}"), "", ""),
                431,
                "head_too_large",
            ),
            (b"GET / HTTP/9.9\r\n\r\n".to_vec(), 400, "malformed_head"),
            (
                b"\x16\x03\x01 is no HTTP\r\n\r\n".to_vec(),
                400,
                "malformed_head",
            ),
            (
                request("GET", gives, "broken\r\n", ""),
                400,
                "malformed_head",
            ),
        ] {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            let (found, error) = read(&raw(base, &bytes).await);
            assert_eq!(
                (found, error["error"]["code"].as_str()),
                (status, Some(code)),
                "{shown}"
            );
            let error = error["error"].as_object().unwrap();
            assert!(!error["message"].as_str().unwrap().is_empty(), "{error:?}");
            assert_eq!(error["type"], "invalid_request_error", "{shown}");
            let known = ["message", "type", "code", "param"];
            assert!(
                error.keys().all(|key| known.contains(&key.as_str())),
                "{error:?}"
            );
        }
    }
    // A kept connection serves again after a refusal that took all of its request.
    let kept = String::from_utf8(post("/chat", "{")).unwrap();
    let mut twice = kept.replace("connection: close\r\n", "").into_bytes();
    twice.extend(request("GET", "/health", "", ""));
    let answer = raw(&server.base, &twice).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn malformed_json_is_told_with_its_place() {
    let server = Server::start(&["engine.kind=scripted"]).await;
    for (base, path) in [
        (&server.base, "/chat"),
        (&server.base, "/v1/chat/completions"),
        (&server.admin, "/admin/policies/trim/config"),
    ] {
        let (status, error) = read(&raw(base, &post(path, "{\n  \"message\": \"x\",}")).await);
        assert_eq!(status, 400, "{path}");
        let told = error["error"]["message"].as_str().unwrap();
        let place = "the body is not valid JSON: trailing comma at line 2 column 18";
        assert_eq!(told, place, "{path}");
    }
    // Behind a question mark too.
    for path in ["/admin/traces?limit=many", "/admin/traces?limit=1&limit=2"] {
        let (status, error) = read(&raw(&server.admin, &request("GET", path, "", "")).await);
        assert_eq!(
            (status, error["error"]["code"].as_str()),
            (400, Some("invalid_value"))
        );
    }
}
