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
