//! What an operator does to policies over HTTP, and reads of them.

use serde_json::{Value, json};

use crate::policy::guest::{Guest, keeper};
use crate::support::server::Server;

const SCRIPTED: [&str; 2] = ["engine.kind=scripted", "policies.breaker.faults=2"];

fn put(server: &Server, name: &str, bytes: &[u8]) {
    let half = server.policies().join(".half");
    std::fs::write(&half, bytes).unwrap();
    std::fs::rename(half, server.policies().join(name)).unwrap();
}

async fn post(server: &Server, route: &str, body: &str) -> (u16, Value) {
    let asked = server.client.post(format!("{}{route}", server.admin));
    let asked = asked.header("content-type", "application/json");
    let response = asked.body(body.to_owned()).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn another_config_is_given_audited_and_ends_with_the_process() {
    let server = Server::start(&SCRIPTED).await;
    let route = "/admin/policies/trim/config";
    let (status, answer) = post(&server, route, r#"{"exchanges": 1}"#).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["hook"], "trim");
    assert_eq!(
        answer["lasts"],
        "until the gateway is started again: then policies.trim.config of its configuration holds"
    );
    assert!(answer["policies"].as_array().unwrap().len() >= 5);
    let last = server.admin("/admin/audit").await;
    let last = last.as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&last["by"], &last["what"], &last["hook"]),
        (&json!("api"), &json!("configured"), &json!("trim"))
    );
    let (status, answer) = post(&server, route, r#"{"exchange": 1}"#).await;
    assert_eq!(status, 400);
    let why = answer["error"]["message"].as_str().unwrap();
    assert!(
        why.contains("cannot be configured") && why.contains("exchange"),
        "{why}"
    );
    for wrong in ["[1]", "7", "{"] {
        let (status, answer) = post(&server, route, wrong).await;
        assert_eq!(status, 400, "{answer}");
    }
    let (status, answer) = post(&server, "/admin/policies/tram/config", "{}").await;
    assert_eq!(status, 400);
    let why = answer["error"]["message"].as_str().unwrap();
    assert!(why.contains("expected one of guard"), "{why}");
}

#[tokio::test]
async fn alarms_and_history_are_told() {
    let server = Server::start(&SCRIPTED).await;
    assert_eq!(server.admin("/admin/alarms").await, json!([]));
    assert_eq!(server.gauge("stent_policy_alarms").await, 0);
    put(&server, "t.wasm", &keeper("good"));
    post(&server, "/admin/policies/reload", "").await;
    put(
        &server,
        "t.wasm",
        &Guest::trimmer("bad", "(unreachable)").core(),
    );
    post(&server, "/admin/policies/reload", "").await;
    for turn in 0..2 {
        server.chat("Hello", &format!("s{turn}")).await;
    }
    server
        .until("the breaker trips", async |s| {
            s.admin("/admin/alarms").await != json!([])
        })
        .await;
    let alarms = server.admin("/admin/alarms").await;
    let alarm = alarms[0].as_str().unwrap();
    assert!(
        alarm.contains("the trim policy bad was rolled back after 2 faults"),
        "{alarm}"
    );
    assert_eq!(server.gauge("stent_policy_alarms").await, 1);
    let history = server.admin("/admin/policies/trim/history").await;
    let told: Vec<_> = history.as_array().unwrap().iter().collect();
    assert_eq!(
        (&told[0]["name"], &told[0]["number"]),
        (&json!("bad"), &json!(2))
    );
    let why = told[0]["replaced"].as_str().unwrap();
    assert!(why.contains("2 faults within"), "{why}");
    assert_eq!(told[1]["name"], "good");
    assert!(told[1].get("replaced").is_none());
    // Another file ends the alarm.
    put(&server, "t.wasm", &keeper("mended"));
    post(&server, "/admin/policies/reload", "").await;
    assert_eq!(server.admin("/admin/alarms").await, json!([]));
}

#[tokio::test]
async fn the_configuration_in_force_is_told_without_its_secrets() {
    let digest = "ab".repeat(32);
    let key = format!("server.keys=[{{ tenant = \"clinic\", sha256 = \"{digest}\" }}]");
    let sets = [
        "engine.kind=scripted",
        &key,
        "engine.upstreams=[\"http://me:canary@host/v1\"]",
    ];
    let server = Server::launch(&sets, |policies| {
        let file = policies.with_file_name("stent.toml");
        std::fs::write(file, "[engine]\ntemperature = 0.5\nqueue = 7\n").unwrap();
    });
    server
        .until("it is ready", async |s| {
            let ready = s.client.get(format!("{}/ready", s.base)).send().await;
            ready.is_ok_and(|response| response.status() == 200)
        })
        .await;
    let told = server.admin("/admin/config").await;
    assert_eq!(told["config"]["engine"]["kind"], "scripted");
    assert_eq!(told["config"]["engine"]["temperature"].to_string(), "0.5");
    assert_eq!(told["config"]["server"]["keys"][0]["tenant"], "clinic");
    assert_eq!(told["next_start"], json!([]));
    let written = told.to_string();
    assert!(
        !written.contains("canary") && !written.contains(&digest),
        "{written}"
    );
    // Every key that --print-config shows is there.
    let defaults = stent::config::Config::default().shown();
    for (section, keys) in defaults.as_object().unwrap() {
        for key in keys.as_object().unwrap().keys() {
            assert!(!told["config"][section][key].is_null(), "{section}.{key}");
        }
    }
    // What a reload takes over is in force, what it cannot waits.
    let file = server.folder.path().join("stent.toml");
    std::fs::write(
        file,
        "[engine]\ntemperature = 0.25\nqueue = 7\nn_batch = 1024\n",
    )
    .unwrap();
    server.signal("HUP");
    server
        .until("it is taken over", async |s| {
            let told = s.admin("/admin/config").await;
            told["config"]["engine"]["temperature"] == 0.25
        })
        .await;
    let told = server.admin("/admin/config").await;
    assert_eq!(told["next_start"], json!(["engine.n_batch"]));
    assert_eq!(told["config"]["engine"]["n_batch"], 2048);
    assert!(!server.log().contains("canary"));
}

/// The access lines of the admin address, but for what `until` and `admin` ask.
fn lines(server: &Server) -> Vec<Value> {
    let log = server.log();
    let all = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|line| line["target"] == "stent::access")
        .collect()
}

#[tokio::test]
async fn each_request_of_an_operator_has_a_line() {
    let token = "canary-admin-token";
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(token));
    let admin = format!("server.admin_token={digest}");
    let sets = [
        "engine.kind=scripted",
        "log.filter=info,stent::access=debug",
        &admin,
    ];
    let server = Server::start(&sets).await;
    let ask = async |method: &str, route: &str, token: Option<&str>| {
        let method: reqwest::Method = method.parse().unwrap();
        let mut asking = server
            .client
            .request(method, format!("{}{route}", server.admin));
        asking = asking.header("x-request-id", "canary.7");
        if let Some(token) = token {
            asking = asking.bearer_auth(token);
        }
        let response = asking.send().await.unwrap();
        assert_eq!(response.headers()["x-request-id"], "canary.7");
        response.status().as_u16()
    };
    for (method, route, token, status, pattern, level, outcome) in [
        (
            "POST",
            "/admin/policies/reload",
            Some(token),
            200,
            "/admin/policies/reload",
            "INFO",
            "ok",
        ),
        (
            "GET",
            "/admin/slots",
            Some(token),
            200,
            "/admin/slots",
            "DEBUG",
            "ok",
        ),
        (
            "GET",
            "/metrics",
            Some(token),
            200,
            "/metrics",
            "DEBUG",
            "ok",
        ),
        (
            "GET",
            "/admin/policies/trim/history",
            Some(token),
            200,
            "/admin/policies/{hook}/history",
            "DEBUG",
            "ok",
        ),
        (
            "GET",
            "/admin/config",
            None,
            401,
            "/admin/config",
            "INFO",
            "error",
        ),
        (
            "POST",
            "/admin/policies/reload",
            Some("wrong"),
            401,
            "/admin/policies/reload",
            "INFO",
            "error",
        ),
        (
            "GET",
            "/canary-nowhere",
            Some(token),
            404,
            "",
            "INFO",
            "error",
        ),
    ] {
        let before = lines(&server).len();
        assert_eq!(ask(method, route, token).await, status, "{route}");
        server
            .until("the line is written", async |s| {
                lines(s).len() == before + 1
            })
            .await;
        let line = lines(&server).pop().unwrap();
        assert_eq!(line["method"], method);
        assert_eq!(line["route"].as_str().unwrap_or(""), pattern);
        assert_eq!(line["status"], status);
        assert_eq!(
            (&line["level"], &line["outcome"]),
            (&json!(level), &json!(outcome))
        );
        assert_eq!(line["request_id"], "canary.7");
        assert!(line["elapsed_ms"].is_number(), "{line}");
    }
    let log = server.log();
    assert!(!log.contains("canary-admin") && !log.contains("canary-nowhere"));
    assert!(!log.contains(&digest));
}
