//! What the log says of requests, and how it is steered while it is written.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::server::{Frames, Server};

async fn start(sets: &[&str]) -> Server {
    let own = ["engine.kind=scripted"];
    Server::start(&[&own, sets].concat()).await
}

/// The lines of a JSON log for what clients asked.
fn lines(log: &str) -> Vec<Value> {
    let parsed = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed
        .filter(|line| line["target"] == "stent::access")
        .filter(|line| {
            !line["route"]
                .as_str()
                .is_some_and(|r| r.starts_with("/admin"))
        })
        .collect()
}

async fn until_lines(server: &Server, count: usize) -> Vec<Value> {
    let enough = async |s: &Server| lines(&s.log()).len() >= count;
    server.until("the access lines are written", enough).await;
    lines(&server.log())
}

async fn log_route(server: &Server, method: Method, filter: Option<&str>) -> (StatusCode, Value) {
    let url = format!("{}/admin/log", server.admin);
    let mut request = server.client.request(method, url);
    if let Some(filter) = filter {
        request = request.json(&json!({ "filter": filter }));
    }
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn each_request_is_one_line() {
    let server = start(&["engine.queue=1"]).await;
    let body = json!({ "message": "hello", "session_id": "one" });
    let streamed = server.post("/chat/stream", body).await;
    let trace = streamed.headers()["traceresponse"]
        .to_str()
        .unwrap()
        .to_owned();
    let named = streamed.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    Frames::of(streamed).rest().await;
    let whole = server.client.post(format!("{}/chat", server.base));
    let whole = whole
        .header("x-request-id", "order-66")
        .json(&json!({ "message": "hello" }));
    let whole = whole.send().await.unwrap();
    assert_eq!(whole.headers()["x-request-id"], "order-66");
    let wrong = server.post("/chat", json!({ "message": "" })).await;
    assert_eq!(wrong.status(), 400);
    // A name that is no word is not taken over.
    let models = server.client.get(format!("{}/v1/models", server.base));
    let models = models
        .header("x-request-id", "two words")
        .send()
        .await
        .unwrap();
    assert_ne!(models.headers()["x-request-id"], "two words");

    let lines = until_lines(&server, 4).await;
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let by = |route: &str, status: u16| {
        let found: Vec<_> = lines
            .iter()
            .filter(|l| l["route"] == route && l["status"] == status)
            .collect();
        assert_eq!(found.len(), 1, "{route} {status}: {lines:#?}");
        found[0]
    };
    let line = by("/chat/stream", 200);
    assert_eq!(
        (&line["level"], &line["outcome"]),
        (&json!("INFO"), &json!("ok"))
    );
    assert_eq!(line["output_tokens"], 12);
    assert!(line["prompt_tokens"].as_u64() > Some(0), "{line}");
    assert!(
        line["ttft_ms"].as_f64() <= line["elapsed_ms"].as_f64(),
        "{line}"
    );
    assert!(line["ttft_ms"].is_f64(), "{line}");
    assert!(trace.contains(line["trace_id"].as_str().unwrap()));
    assert_eq!(
        line["trace_id"],
        named.as_str(),
        "who gives no name is named by its trace"
    );
    assert_eq!(line["span_id"].as_str().map(str::len), Some(16));
    assert_eq!(by("/chat", 200)["request_id"], "order-66");
    let line = by("/chat", 400);
    assert_eq!(
        (&line["outcome"], &line["code"]),
        (&json!("error"), &json!("invalid_value"))
    );
    assert_eq!(line.get("ttft_ms"), None);
    assert_eq!(by("/v1/models", 200)["method"], "GET");
}

/// Nobody is refused in silence; what balancers ask is told to whoever debugs.
#[tokio::test]
async fn what_is_refused_is_a_line_too() {
    let digest = stent::access::Digest::of("one");
    let key = format!("server.keys=[{{ tenant = \"a\", sha256 = \"{digest}\" }}]");
    let server = start(&[&key]).await;
    let ask = async |method: &str, path: &str, known: bool| {
        let url = format!("{}{path}", server.base);
        let mut asked = server.client.request(method.parse().unwrap(), url);
        if known {
            asked = asked.bearer_auth("one");
        }
        asked.send().await.unwrap().bytes().await.unwrap()
    };
    ask("GET", "/sessions/canary-1", false).await;
    ask("POST", "/chat", false).await;
    ask("GET", "/canary-2", true).await;
    ask("CANARY", "/chat", true).await;
    ask("HEAD", "/v1/models", true).await;
    ask("GET", "/health", false).await;
    let told = until_lines(&server, 5).await;
    let mut facts: Vec<_> = told
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
            let (method, route) = (text("method"), text("route"));
            format!(
                "{method} {route} {} {} {}",
                line["status"],
                text("outcome"),
                text("level")
            )
        })
        .collect();
    facts.sort();
    let expected = [
        "GET - 404 error INFO",
        "GET /sessions/{id} 401 error INFO",
        "HEAD /v1/models 200 ok INFO",
        "POST /chat 401 error INFO",
        "_OTHER /chat 405 error INFO",
    ];
    assert_eq!(facts, expected);
    assert!(
        told.iter().all(|line| line["trace_id"].is_string()),
        "{told:#?}"
    );
    log_route(&server, Method::PUT, Some("debug")).await;
    ask("GET", "/health", false).await;
    let told = until_lines(&server, 6).await;
    let last = told.last().unwrap();
    assert_eq!(
        (&last["route"], &last["level"]),
        (&json!("/health"), &json!("DEBUG"))
    );
    assert!(
        !server.log().to_lowercase().contains("canary"),
        "{}",
        server.log()
    );
}

#[tokio::test]
async fn a_failure_is_one_warning() {
    let sets = [
        "engine.script.token=1300ms",
        "engine.stall_after=1s",
        "cache.store=off",
    ];
    let server = start(&sets).await;
    let response = server.post("/chat", json!({ "message": "hello" })).await;
    assert_eq!(response.status(), 500);
    let lines = until_lines(&server, 1).await;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["level"], "WARN");
    assert_eq!(
        (&lines[0]["outcome"], &lines[0]["code"]),
        (&json!("error"), &json!("engine_error"))
    );
}

#[tokio::test]
async fn the_filter_changes_while_it_runs() {
    let server = start(&[]).await;
    let (_, now) = log_route(&server, Method::GET, None).await;
    assert_eq!(now, json!({ "filter": "info", "configured": "info" }));
    server.chat("hello", "one").await;
    until_lines(&server, 1).await;

    let (status, now) = log_route(&server, Method::PUT, Some("warn")).await;
    assert_eq!((status, &now["filter"]), (StatusCode::OK, &json!("warn")));
    server.chat("quiet", "one").await;
    let (_, now) = log_route(&server, Method::PUT, Some("info,stent::access=off")).await;
    assert_eq!(now["filter"], "info,stent::access=off");
    server.chat("quieter", "one").await;

    let (status, error) = log_route(&server, Method::PUT, Some("info,stent=loud")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let message = error["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("filter: found \"info,stent=loud\", expected a level"),
        "{message}"
    );
    let (_, now) = log_route(&server, Method::GET, None).await;
    assert_eq!(
        now["filter"], "info,stent::access=off",
        "a refusal changes nothing"
    );

    let (_, now) = log_route(&server, Method::DELETE, None).await;
    assert_eq!(now["filter"], "info");
    server.chat("loud", "one").await;
    assert_eq!(until_lines(&server, 2).await.len(), 2);
}

#[tokio::test]
async fn a_file_is_opened_again_at_usr1() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stent.log");
    let set = format!("log.file={}", file.display());
    let server = start(&[&set]).await;
    server.chat("hello", "one").await;
    let written =
        |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    server
        .until("a line is in the file", async |_| {
            lines(&written("stent.log")).len() == 1
        })
        .await;
    assert_eq!(server.log(), "", "nothing goes to standard error");

    std::fs::rename(&file, folder.path().join("stent.log.1")).unwrap();
    server.chat("between", "one").await;
    server
        .until("it goes into the moved file", async |_| {
            lines(&written("stent.log.1")).len() == 2
        })
        .await;
    server.signal("USR1");
    server
        .until("the file is there again", async |_| {
            written("stent.log").contains("open again")
        })
        .await;
    server.chat("after", "one").await;
    server
        .until("it goes into the new file", async |_| {
            lines(&written("stent.log")).len() == 1
        })
        .await;
    assert_eq!(lines(&written("stent.log.1")).len(), 2);
}

/// Without a file the signal must not end the process.
#[tokio::test]
async fn usr1_without_a_file_does_no_harm() {
    let server = start(&["log.format=human"]).await;
    server.signal("USR1");
    server
        .until("it is told", async |s| s.log().contains("SIGUSR1"))
        .await;
    server.chat("hello", "one").await;
    server
        .until("a line for people", async |s| {
            s.log()
                .lines()
                .any(|line| line.contains("INFO stent::access: request method=\"POST\""))
        })
        .await;
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let output = crate::support::server::command()
        .args([
            "serve",
            "--set",
            "engine.kind=scripted",
            "--set",
            "log.file=/nowhere/stent.log",
        ])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        told.contains("log.file: /nowhere/stent.log: cannot be opened: No such file"),
        "{told}"
    );
}
