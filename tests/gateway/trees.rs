//! The whole trace of a request for each way in which it can end, as a receiver gets it.

mod again;
mod around;
mod expected;
mod hosts;
mod routes;
mod traced;
mod upstream;

use std::sync::Arc;

use serde_json::{Value, json};

use self::expected::*;
use self::traced::*;
use crate::policy::guest::{Guest, TRAP, words};
use crate::support::otlp::draw;
use crate::support::server::{Frames, told};

#[tokio::test]
async fn ok_and_cached() {
    let remembering = [&SHARED[..], &["policies.remember=1MiB"]].concat();
    let traced = Traced::start(&remembering).await;
    let (trace, _) = answer(traced.ask("hello", "one").await).await;
    let spans = traced.spans(&trace, 15).await;
    let all: Vec<_> = spans.iter().map(|span| shown(span, &[])).collect();
    same(&draw(&all), OK);

    let (trace, frames) = answer(traced.ask("hello", "two").await).await;
    assert_eq!(told(&frames).1["cached"], true);
    let spans = traced.is(&trace, CACHED).await;
    ends_last(&spans);
    let remembered = ("stent.policy.remembered".to_owned(), json!(true));
    let policies = spans.iter().filter(|span| span.name.starts_with("policy "));
    for span in policies {
        let told = span.attributes.contains(&remembered);
        assert!(told, "{} was asked again: {span:#?}", span.name);
    }
}

#[tokio::test]
async fn coalesced_with_a_link_to_the_run() {
    let traced = Traced::start(&["engine.script.token=150ms", "cache.store=off"]).await;
    let leader = traced.ask("same", "one").await;
    let trace = trace_of(&leader);
    let mut leader = Frames::of(leader);
    while !leader.next().await.unwrap().contains("text-delta") {}
    let (follower, frames) = answer(traced.ask("same", "two").await).await;
    assert_eq!(told(&frames).1["coalesced"], true);
    leader.rest().await;
    let spans = traced.is(&follower, COALESCED).await;
    ends_last(&spans);
    let wait = spans
        .iter()
        .find(|span| span.name == "coalesce.wait")
        .unwrap();
    let led = traced.is(&trace, LEADER).await;
    let chat = led
        .iter()
        .find(|span| span.name == "chat scripted")
        .unwrap();
    assert_eq!(wait.links, std::slice::from_ref(&chat.id));
    let metrics = traced.server.metrics().await;
    let counted = r#"stent_cache_total{key="exact",result="coalesced"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn blocked_by_a_reply_and_by_a_refusal() {
    let verdict = |variant: u32| {
        let body = words(1024, &[0, variant, 600, 14]) + "(i32.const 1024)";
        Guest::guard("stern", &body)
    };
    let traced = Traced::with(&[], put("guard.wasm", &verdict(2))).await;
    let (trace, frames) = answer(traced.ask("hello", "one").await).await;
    assert_eq!(told(&frames).0, "it will not do");
    ends_last(&traced.is(&trace, REPLIED).await);

    let traced = Traced::with(&[], put("guard.wasm", &verdict(3))).await;
    let refused = traced.ask("hello", "one").await;
    assert_eq!(refused.status(), 422);
    ends_last(&traced.is(&trace_of(&refused), REFUSED).await);
}

#[tokio::test]
async fn overloaded_and_queued() {
    let sets = [
        "engine.script.token=150ms",
        "cache.store=off",
        "engine.slots=1",
        "engine.queue=1",
    ];
    let traced = Traced::start(&sets).await;
    let first = Frames::of(traced.ask("a", "a").await);
    let second = traced.ask("b", "b").await;
    let third = traced.ask("c", "c").await;
    assert_eq!(third.status(), 429);
    ends_last(&traced.is(&trace_of(&third), OVERLOADED).await);
    let (trace, _) = answer(second).await;
    let spans = traced.spans(&trace, 12).await;
    let entered = spans.iter().find(|span| span.name == "admission").unwrap();
    let place = ("stent.queue.position".to_owned(), json!(1));
    assert!(entered.attributes.contains(&place), "{entered:?}");
    first.rest().await;
}

#[tokio::test]
async fn cancelled_before_the_first_byte_and_after_it() {
    let sets = ["engine.script.token=100ms", "cache.store=off"];
    let traced = Traced::start(&[sets.as_slice(), &["engine.slots=1"]].concat()).await;
    // It leaves from the queue: the only slot is taken.
    let first = Frames::of(traced.ask("first", "one").await);
    let response = traced.ask("hello", "two").await;
    let trace = trace_of(&response);
    let mut frames = Frames::of(response);
    while !frames.next().await.unwrap().contains("queued") {}
    drop(frames);
    ends_last_but_for_the_run(&traced.is(&trace, LEFT_EARLY).await);
    first.rest().await;

    let traced = Traced::start(&sets).await;
    let response = traced.ask("hello", "one").await;
    let trace = trace_of(&response);
    let mut frames = Frames::of(response);
    while !frames.next().await.unwrap().contains("text-delta") {}
    drop(frames);
    ends_last_but_for_the_run(&traced.is(&trace, LEFT_LATE).await);
}

/// A server whose engine took so long for a word that an answer failed, as its trace shows.
async fn stalled(token: &str) -> Traced {
    let token = format!("engine.script.token={token}");
    let sets = ["engine.stall_after=1s", "cache.store=off", &token];
    let traced = Traced::start(&sets).await;
    let (trace, frames) = answer(traced.ask("hello", "one").await).await;
    assert_eq!(frames.last().unwrap()["code"], "engine_error");
    ends_last(&traced.is(&trace, FAILED).await);
    traced
}

/// Whoever looks for the reason finds the whole trace, although the engine's thread ends nothing.
#[tokio::test]
async fn a_step_that_never_comes_back() {
    stalled("1h").await;
}

/// A step that takes longer than `engine.stall_after` loses its answers.
#[tokio::test]
async fn an_engine_that_fails() {
    let traced = stalled("3s").await;

    // Without a stream the failure is the response, and it is counted once.
    let body = json!({ "message": "again", "session_id": "two" });
    let response = traced.server.post("/chat", body).await;
    assert_eq!(response.status(), 500);
    let metrics = traced.server.metrics().await;
    let counted = r#"stent_requests_total{route="/chat",outcome="error"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn a_policy_that_fails_open_and_closed() {
    let bad = Guest::trimmer("bad", TRAP);
    let fault = r#"stent_policy_faults_total{hook="trim",policy="bad",kind="trap"} 1"#;
    let traced = Traced::with(&["cache.store=off"], put("trim.wasm", &bad)).await;
    let response = traced.ask("hello", "one").await;
    assert_eq!(response.status(), 200);
    let (trace, _) = answer(response).await;
    ends_last(&traced.is(&trace, OPEN).await);

    let closed = ["cache.store=off", "policies.trim.fail=closed"];
    let traced = Traced::with(&closed, put("trim.wasm", &bad)).await;
    let response = traced.ask("hello", "one").await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let trace = trace_of(&response);
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["code"], "policy_fault");
    ends_last(&traced.is(&trace, CLOSED).await);
    let metrics = traced.server.metrics().await;
    assert!(metrics.contains(fault), "{metrics}");
}

#[tokio::test]
async fn a_filter_that_fails_in_the_middle() {
    let bad = Guest::filter("bad", "", TRAP, TRAP);
    let fault = r#"stent_policy_faults_total{hook="filter",policy="bad",kind="trap"} 1"#;
    for (fail, expected) in [("open", FILTER_OPEN), ("closed", FILTER_CLOSED)] {
        let fail = format!("policies.filter.fail={fail}");
        let sets = ["cache.store=off", "engine.script.token=30ms", &fail];
        let traced = Traced::with(&sets, put("filter.wasm", &bad)).await;
        let response = traced.ask("hello", "one").await;
        assert_eq!(response.status(), 200);
        let (trace, frames) = answer(response).await;
        let last = frames.last().unwrap();
        match fail.ends_with("open") {
            true => assert!(told(&frames).0.ends_with("to everyone."), "{frames:?}"),
            false => assert_eq!(last["code"], "policy_fault", "{frames:?}"),
        }
        let spans = traced.is(&trace, expected).await;
        match fail.ends_with("open") {
            true => ends_last(&spans),
            false => ends_last_but_for_the_run(&spans),
        }
        let metrics = traced.server.metrics().await;
        assert!(metrics.contains(fault), "{metrics}");
    }
}

/// A history that outgrows the context.
#[tokio::test]
async fn trimmed_history_is_an_event_with_its_size() {
    let sets = ["engine.n_ctx=400", "engine.max_tokens=32"];
    let traced = Traced::start(&sets).await;
    for n in 0..20 {
        let message = format!("question number {n}, with some words in it");
        let answer = traced.server.chat(&message, "one").await;
        let trace = answer["stent"]["trace_id"].as_str().unwrap().to_owned();
        let receiver = Arc::clone(&traced.receiver);
        let root = tokio::task::spawn_blocking(move || receiver.server(&trace));
        let root = root.await.unwrap();
        let trimmed = root
            .events
            .iter()
            .find(|(name, _)| name == "context_trimmed");
        let Some((_, event)) = trimmed else { continue };
        let told = |key: &str| {
            let found = event.iter().find(|(name, _)| name == key);
            found.and_then(|(_, value)| value.as_i64()).unwrap()
        };
        let (before, after) = (
            told("stent.trim.tokens_before"),
            told("stent.trim.tokens_after"),
        );
        assert!(0 < after && after < before && after < 400, "{event:?}");
        assert!(told("stent.trim.messages_dropped") > 0, "{event:?}");
        return;
    }
    panic!("nothing was left out");
}
