//! What the operator is told beside the shape of a trace: captured content, a filter's word, a
//! shadow's answers, history that was left out.

use std::sync::Arc;

use serde_json::{Value, json};
use stent::trace::Protocol;

use crate::policy::guest::{Guest, TRAP, words};
use crate::support::otlp::{Received, Receiver};
use crate::support::server::{Frames, Server, told};

/// A guest's file name and its bytes.
type File = (&'static str, Vec<u8>);

async fn start(sets: &[&str], files: &[File]) -> (Server, Arc<Receiver>) {
    let receiver = Arc::new(Receiver::start(Protocol::Grpc));
    let endpoint = format!("telemetry.otlp={}", receiver.endpoint());
    let own = ["engine.kind=scripted", endpoint.as_str()];
    let server = Server::launch(&[&own, sets].concat(), |folder| {
        for (name, bytes) in files {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    });
    server
        .until("the server is ready", async |s| {
            let asked = s.client.get(format!("{}/ready", s.base)).send().await;
            asked.is_ok_and(|response| response.status() == 200)
        })
        .await;
    (server, receiver)
}

async fn spans(receiver: &Arc<Receiver>, summary: &Value, count: usize) -> Vec<Received> {
    let (receiver, trace) = (receiver.clone(), summary["trace_id"].to_string());
    tokio::task::spawn_blocking(move || receiver.trace(trace.trim_matches('"'), count))
        .await
        .unwrap()
}

#[tokio::test]
async fn content_is_told_only_where_it_is_captured() {
    for capture in [true, false] {
        let capture_set = format!("telemetry.capture_content={capture}");
        let scope = [
            &capture_set,
            "policies.cache.scope=tenant",
            "policies.cache.config.scope=tenant",
        ];
        let (server, receiver) = start(&scope, &[]).await;
        // The second answer comes from the cache: no model was asked, the request tells it.
        for (session, count, teller) in [("a", 15, "chat scripted"), ("b", 8, "POST /chat/stream")]
        {
            let body = json!({ "message": "canary-19c2?", "session_id": session });
            let frames = Frames::of(server.post("/chat/stream", body).await)
                .rest()
                .await;
            let (text, summary) = told(&frames);
            let spans = spans(&receiver, &summary, count).await;
            let tells =
                |span: &&Received| span.raw.contains("canary-19c2") || span.raw.contains(&text);
            let tellers: Vec<_> = spans.iter().filter(tells).collect();
            if !capture {
                assert!(tellers.is_empty(), "{tellers:#?}");
                continue;
            }
            assert_eq!(tellers.len(), 1, "{tellers:#?}");
            assert_eq!(tellers[0].name, teller);
            let json = |key| serde_json::from_str::<Value>(tellers[0].told(key)).unwrap();
            let input = json("gen_ai.input.messages");
            let parts = json!([{ "type": "text", "content": "canary-19c2?" }]);
            assert_eq!(input, json!([{ "role": "user", "parts": parts }]));
            let output = json("gen_ai.output.messages");
            assert_eq!(output[0]["parts"][0]["content"], text.as_str());
            assert_eq!(output[0]["finish_reason"], "stop");
        }
        assert!(!server.log().contains("canary-19c2"));
    }
}

/// A word is told as it is, unless it is a word of the answer; so is no sentence.
#[tokio::test]
async fn a_filters_reason_is_logged_and_counted_if_it_is_a_word() {
    // The name lies at 64; at 600 there is a sentence.
    for (reason, said) in [([64, 5], "phone"), ([600, 14], "unnamed")] {
        let [at, len] = reason;
        let stop = words(1092, &[1, 600, 14, at, len]) + "(i32.const 1088)";
        let filter = Guest::filter("phone", "", &stop, TRAP);
        let (server, _receiver) = start(&[], &[("filter.wasm", filter.core())]).await;
        let answer = server.chat("hello", "one").await;
        assert_eq!(answer["finish_reason"], "content-filter");
        let counted = format!("stent_filter_stops_total{{policy=\"phone\",reason=\"{said}\"}} 1");
        let metrics = server.metrics().await;
        assert!(metrics.contains(&counted), "{metrics}");
        let log = server.log();
        let line = format!("the filter phone ended an answer: {said}");
        assert!(log.contains(&line), "{log}");
        assert!(!log.contains("it will not do"), "{log}");
    }
    // Its reason is what it just read.
    let stop = words(1092, &[1, 600, 14])
        + "(i32.store (i32.const 1104) (local.get $text)) \
           (i32.store (i32.const 1108) (local.get $bytes)) (i32.const 1088)";
    let filter = Guest::filter("phone", "", &stop, TRAP);
    let says = ["engine.script.text=methotrexate"];
    let (server, _receiver) = start(&says, &[("filter.wasm", filter.core())]).await;
    let answer = server.chat("hello", "one").await;
    assert_eq!(answer["finish_reason"], "content-filter");
    let metrics = server.metrics().await;
    assert!(server.log().contains("filter.wasm: compile"));
    let unnamed = "stent_filter_stops_total{policy=\"phone\",reason=\"unnamed\"} 1";
    assert!(metrics.contains(unnamed), "{metrics}");
}

#[tokio::test]
async fn a_shadow_is_counted_apart() {
    // It keeps the newest message only (decision keep-from, its id is 2 in the second exchange).
    let newest = "(i32.store8 (i32.const 1032) (i32.const 1)) \
                  (i64.store (i32.const 1040) (i64.const 2)) (i32.const 1024)";
    for (body, results) in [
        (newest, ["failed", "different"]),
        (TRAP, ["failed", "failed"]),
    ] {
        let shadow = Guest::trimmer("next", body).core();
        let (server, _receiver) = start(&[], &[("next.shadow.wasm", shadow)]).await;
        for result in results {
            server.chat("hello", "one").await;
            server
                .until("the shadow has answered", async |s| {
                    let counted = format!(
                        "stent_policy_shadow_answers_total{{hook=\"trim\",policy=\"next\",result=\"{result}\"}}"
                    );
                    s.metrics().await.contains(&counted)
                })
                .await;
        }
        let metrics = server.metrics().await;
        let live = metrics
            .lines()
            .filter(|line| line.contains("policy=\"next\""));
        let live: Vec<_> = live.filter(|line| !line.contains("shadow")).collect();
        assert!(live.is_empty(), "a shadow counts as live: {live:?}");
        assert!(metrics.contains("policy=\"trim-exchanges\""), "{metrics}");
    }
}

#[tokio::test]
async fn history_that_is_left_out_is_told() {
    let (server, receiver) = start(&["policies.trim.config.exchanges=1"], &[]).await;
    let mut last = Value::Null;
    for n in 0..3 {
        last = server.chat(&format!("hello {n}"), "one").await;
    }
    let spans = spans(&receiver, &last["stent"], 15).await;
    let root = spans.iter().find(|span| span.kind == "SERVER").unwrap();
    let (_, told) = root
        .events
        .iter()
        .find(|(name, _)| name == "context_trimmed")
        .expect("an event tells it");
    let number = |key: &str| {
        told.iter()
            .find(|(k, _)| k == key)
            .unwrap()
            .1
            .as_u64()
            .unwrap()
    };
    assert_eq!(number("stent.trim.messages_dropped"), 2);
    assert!(number("stent.trim.tokens_before") > number("stent.trim.tokens_after"));
}
