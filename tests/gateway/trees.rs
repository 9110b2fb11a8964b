//! The whole trace of a request for each way in which it can end, as a receiver gets it.

mod expected;
mod routes;

use std::path::Path;
use std::sync::Arc;

use reqwest::Response;
use serde_json::{Value, json};
use stent::trace::Protocol;

use self::expected::*;
use crate::policy::guest::{Guest, TRAP, words};
use crate::support::otlp::{Received, Receiver, draw};
use crate::support::server::{Frames, Server, told};

/// A server without a model, and where its spans arrive.
struct Traced {
    server: Server,
    receiver: Arc<Receiver>,
}

/// What differs from run to run, or from build to build: shown as "*".
const VOLATILE: &[&str] = &[
    "gen_ai.request.seed",
    "stent.policy.duration_us",
    "stent.policy.memory_peak",
    "stent.policy.sha256",
    "stent.tokens.per_second",
];
/// What the first tree shows and the others need not repeat.
const KNOWN: &[&str] = &[
    "gen_ai.operation.",
    "gen_ai.provider.",
    "gen_ai.request.",
    "gen_ai.response.model",
    "gen_ai.usage.",
    "http.request.",
    "stent.policy.duration_us",
    "stent.policy.memory_peak",
    "stent.policy.remembered",
    "stent.policy.sha256",
    "stent.policy.version",
    "stent.session.",
    "stent.tokens.",
];

impl Traced {
    async fn start(sets: &[&str]) -> Self {
        Self::with(sets, |_| {}).await
    }

    /// `prepare` puts policies into their folder.
    async fn with(sets: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let receiver = Arc::new(Receiver::start(Protocol::Grpc));
        let endpoint = format!("telemetry.otlp={}", receiver.endpoint());
        // Each policy is asked anew: what was decided before has a test of its own.
        let own = [
            "engine.kind=scripted",
            "policies.remember=0",
            endpoint.as_str(),
        ];
        let server = Server::launch(&[&own, sets].concat(), prepare);
        server
            .until("the server is ready", async |s| {
                let asked = s.client.get(format!("{}/ready", s.base)).send().await;
                asked.is_ok_and(|response| response.status() == 200)
            })
            .await;
        Self { server, receiver }
    }

    async fn ask(&self, message: &str, session: &str) -> Response {
        let body = json!({ "message": message, "session_id": session });
        self.server.post("/chat/stream", body).await
    }

    /// The spans of an answer's trace, once all of the expected ones and the root are there.
    async fn spans(&self, trace: &str, expected: usize) -> Vec<Received> {
        let (receiver, trace) = (self.receiver.clone(), trace.to_owned());
        tokio::task::spawn_blocking(move || receiver.trace(&trace, expected))
            .await
            .unwrap()
    }

    /// Compares the trace with the drawn one.
    async fn is(&self, trace: &str, expected: &str) -> Vec<Received> {
        let is_span = |line: &&str| !line.trim_start().starts_with(['!', '-']);
        let count = expected.lines().filter(is_span).count();
        let spans = self.spans(trace, count).await;
        let short = spans
            .iter()
            .map(|span| shown(span, KNOWN))
            .collect::<Vec<_>>();
        same(&draw(&short), expected);
        spans
    }
}

/// Where the run was not cut short: of one that was, the engine's step may outlast the answer.
fn ends_last(spans: &[Received]) {
    let root = spans.iter().find(|span| span.kind == "SERVER").unwrap();
    let late: Vec<_> = spans.iter().filter(|span| span.end > root.end).collect();
    assert!(late.is_empty(), "the server span ends before {late:#?}");
}

fn shown(span: &Received, known: &[&str]) -> Received {
    let mut span = span.clone();
    span.attributes
        .retain(|(key, _)| !known.iter().any(|start| key.starts_with(start)));
    for (key, value) in &mut span.attributes {
        if VOLATILE.contains(&key.as_str()) {
            *value = json!("*");
        }
    }
    span
}

fn same(found: &str, expected: &str) {
    if found != expected {
        panic!("found:\n{found}\nexpected:\n{expected}");
    }
}

/// The trace id that the answer's head tells.
fn trace_of(response: &Response) -> String {
    let header = response.headers()["traceresponse"].to_str().unwrap();
    header.split('-').nth(1).unwrap().to_owned()
}

/// The answer's trace id and its frames.
async fn answer(response: Response) -> (String, Vec<Value>) {
    let trace = trace_of(&response);
    (trace, Frames::of(response).rest().await)
}

fn put<'a>(name: &'a str, guest: &'a Guest) -> impl FnOnce(&Path) + use<'a> {
    move |folder| std::fs::write(folder.join(name), guest.core()).unwrap()
}

const SHARED: [&str; 2] = [
    "policies.cache.scope=tenant",
    "policies.cache.config.scope=tenant",
];

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
    traced.is(&trace, LEFT_EARLY).await;
    first.rest().await;

    let traced = Traced::start(&sets).await;
    let response = traced.ask("hello", "one").await;
    let trace = trace_of(&response);
    let mut frames = Frames::of(response);
    while !frames.next().await.unwrap().contains("text-delta") {}
    drop(frames);
    traced.is(&trace, LEFT_LATE).await;
}

/// A step that takes longer than `engine.stall_after` loses its answers.
#[tokio::test]
async fn an_engine_that_fails() {
    let sets = [
        "engine.script.token=3s",
        "engine.stall_after=1s",
        "cache.store=off",
    ];
    let traced = Traced::start(&sets).await;
    let (trace, frames) = answer(traced.ask("hello", "one").await).await;
    assert_eq!(frames.last().unwrap()["code"], "engine_error");
    // The client is told before the step that hangs has ended.
    traced.is(&trace, FAILED).await;

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
        if fail.ends_with("open") {
            ends_last(&spans);
        }
        let metrics = traced.server.metrics().await;
        assert!(metrics.contains(fault), "{metrics}");
    }
}
