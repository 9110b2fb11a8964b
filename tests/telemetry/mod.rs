//! Traces as a collector receives them, and metrics as Prometheus scrapes them.

mod logs;
mod metrics;
mod privacy;
mod secrets;
mod series;
mod status;
mod trouble;

use std::time::Duration;

use opentelemetry::Value;
use stent::trace::{self, Held, Outcome, Protocol, Settings, spans};
use stent::types::{Finish, Sampling};
use tracing::{Dispatch, Span, dispatcher};
use tracing_subscriber::layer::SubscriberExt;

use crate::support::otlp::{Receiver, draw};

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The tree that [`request`] makes, as it must arrive.
const TREE: &str = r#"POST /chat/stream SERVER http.request.method="POST" http.response.status_code=200 http.route="/chat/stream" stent.outcome="ok" stent.policy.generation=3
  ! policy_fault error.type="trap" stent.policy.fail="open" stent.policy.hook="trim"
  ! context_trimmed stent.trim.messages_dropped=2 stent.trim.tokens_after=600 stent.trim.tokens_before=900
  ! first_byte
  admission INTERNAL stent.queue.depth=2 stent.queue.position=1
  cache.lookup INTERNAL stent.cache.key="parts" stent.cache.result="miss" stent.cache.store="memory"
  cache.store INTERNAL stent.cache.bytes=512 stent.cache.store="memory"
  chat demo INTERNAL gen_ai.operation.name="chat" gen_ai.provider.name="llama_cpp" gen_ai.request.frequency_penalty=0.0 gen_ai.request.max_tokens=1024 gen_ai.request.model="demo" gen_ai.request.presence_penalty=0.0 gen_ai.request.seed=7 gen_ai.request.temperature=0.7 gen_ai.request.top_k=40 gen_ai.request.top_p=0.95 gen_ai.response.finish_reasons=["stop"] gen_ai.response.model="demo" gen_ai.usage.cache_read.input_tokens=90 gen_ai.usage.input_tokens=100 gen_ai.usage.output_tokens=21 stent.seed.source="derived" stent.slot=1
    ! first_token stent.slot=1
    decode INTERNAL stent.slot=1 stent.tokens.output=21 stent.tokens.per_second=10.0
    prefill INTERNAL stent.slot=1 stent.tokens.prompt=100 stent.tokens.reused=90
  coalesce.wait INTERNAL
    -> chat demo
  policy trim INTERNAL FAILED error.type="trap" stent.policy.duration_us=250 stent.policy.generation=3 stent.policy.hook="trim" stent.policy.memory_peak=65536 stent.policy.name="trim-exchanges" stent.policy.outcome="trap" stent.policy.sha256="abcd" stent.policy.version="0.1.0"
  queue.wait INTERNAL
  session.append INTERNAL stent.session.store="redb" stent.session.turns=4
  session.load INTERNAL stent.session.store="redb" stent.session.turns=3
"#;

fn sampling() -> Sampling {
    Sampling {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        seed: 7,
        ..Sampling::greedy()
    }
}

/// A request whose stages run on three threads, as they do in the server. Returns its trace.
fn request() -> String {
    let server = Held::new(spans::server("POST", "/chat/stream", Some(CALLER)));
    spans::generation(&server, 3);
    // Entered and left again long before its end, as an instrumented handler does.
    server.in_scope(|| spans::position(&spans::admission(&server, 2), 1));
    let load = spans::session_load(&server);
    spans::session_place(&load, "redb");
    spans::turns(&load, 3);
    drop(load);
    spans::cache_result(&spans::cache_lookup(&server, "memory", "parts"), "miss");
    let call = spans::PolicyCall {
        ask: "trim",
        hook: "trim",
        name: "trim-exchanges",
        version: "0.1.0",
        sha256: "abcd",
        generation: 3,
    };
    let policy = spans::policy(&server, &call);
    spans::policy_done(&policy, "trap", 65_536, Duration::from_micros(250));
    spans::policy_fault(&server, "trim", "trap", "open");
    drop(policy);
    spans::context_trimmed(&server, 900, 600, 2);
    let chat = spans::chat(&server, "demo", &sampling(), 1024);
    let waiting = spans::queue_wait(&chat);
    spans::seed_source(&chat, "derived");
    drop(spans::coalesce_wait(&server, Some(&trace::context(&chat))));
    elsewhere(move || engine(waiting, chat));
    let id = trace::trace_id(&server).unwrap();
    elsewhere(move || body(server));
    id
}

fn engine(waiting: Span, chat: Span) {
    drop(waiting);
    spans::slot(&chat, 1);
    drop(spans::prefill(&chat, 1, 100, 90));
    spans::decode_done(&spans::decode(&chat, 1), 21, Duration::from_secs(2));
    spans::chat_done(&chat, Finish::Stop, 100, 90, 21);
}

fn body(server: Held) {
    spans::event(
        &server,
        "first_byte",
        &[("a.secret", Value::from("canary"))],
    );
    let append = spans::session_append(&server);
    spans::session_place(&append, "redb");
    spans::turns(&append, 4);
    drop(append);
    drop(spans::cache_store(&server, "memory", 512));
    spans::http_status(&server, 200);
    spans::outcome(&server, Outcome::Ok);
}

/// Runs `f` on another thread, which knows the subscriber (in the server it is global) but not
/// the current span.
fn elsewhere(f: impl FnOnce() + Send + 'static) {
    let dispatch = dispatcher::get_default(Dispatch::clone);
    std::thread::spawn(move || dispatcher::with_default(&dispatch, f))
        .join()
        .unwrap();
}

fn arrives_whole(protocol: Protocol) {
    let receiver = Receiver::start(protocol);
    let settings = Settings {
        otlp: receiver.endpoint(),
        protocol,
        ..Settings::default()
    };
    let (layer, guard) = trace::exporting(&settings).unwrap();
    let counts = guard.counts();
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
    let id = dispatcher::with_default(&dispatch, request);
    assert_eq!(
        id, "4bf92f3577b34da6a3ce929d0e0e4736",
        "the caller's trace goes on"
    );
    guard.close();

    let received = receiver.trace(&id, 12);
    pretty_assert(&draw(&received), TREE);
    let root = received.iter().find(|span| span.kind == "SERVER").unwrap();
    assert_eq!(
        root.parent, "00f067aa0ba902b7",
        "the caller's span is the parent"
    );
    let last = received.iter().map(|span| span.end).max().unwrap();
    assert_eq!(root.end, last, "the server span ends last");
    assert_eq!(
        (counts.ended(), counts.exported(), counts.dropped()),
        (12, 12, 0)
    );
}

fn pretty_assert(found: &str, expected: &str) {
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "{found}");
}

#[test]
fn the_tree_arrives_over_grpc() {
    arrives_whole(Protocol::Grpc);
}

#[test]
fn the_tree_arrives_over_http() {
    arrives_whole(Protocol::Http);
}

/// The exporters are also made inside of a runtime, where the server makes them.
#[tokio::test]
async fn the_exporters_work_inside_a_runtime() {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let receiver = Receiver::start(protocol);
        let settings = Settings {
            otlp: receiver.endpoint(),
            protocol,
            ..Settings::default()
        };
        let (layer, guard) = trace::exporting(&settings).unwrap();
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
        let id = dispatcher::with_default(&dispatch, request);
        guard.shutdown().await;
        assert_eq!(receiver.trace(&id, 12).len(), 12);
    }
}

#[test]
fn a_reload_is_a_trace_of_its_own() {
    let receiver = Receiver::start(Protocol::Grpc);
    let settings = Settings {
        otlp: receiver.endpoint(),
        ..Settings::default()
    };
    let (layer, guard) = trace::exporting(&settings).unwrap();
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
    let id = dispatcher::with_default(&dispatch, || {
        let reload = spans::policy_reload("mine.wasm");
        drop(spans::reload_stage(&reload, "settle"));
        spans::failed(&spans::reload_stage(&reload, "compile"), "not-wasm");
        spans::reload_rejected(&reload, "compile", "is not WebAssembly", 3);
        trace::trace_id(&reload).unwrap()
    });
    guard.close();
    let expected = r#"policy.reload INTERNAL FAILED error.type="compile" stent.policy.file="mine.wasm" stent.policy.generation=3 stent.reload.reason="is not WebAssembly" stent.reload.result="rejected" stent.reload.stage="compile"
  compile INTERNAL FAILED error.type="not-wasm" stent.reload.stage="compile"
  settle INTERNAL stent.reload.stage="settle"
"#;
    pretty_assert(&draw(&receiver.trace(&id, 3)), expected);
}

#[test]
fn a_malformed_traceparent_starts_a_new_trace() {
    let (layer, _guard) = trace::exporting(&Settings::default()).unwrap();
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
    dispatcher::with_default(&dispatch, || {
        for header in ["", "00-zz-00f067aa0ba902b7-01", "00-0000-00-01", "\u{1F}"] {
            let span = spans::server("GET", "/health", Some(header));
            let id = trace::trace_id(&span).unwrap();
            assert_ne!(id, "0".repeat(32));
            let response = trace::traceresponse(&span).unwrap();
            assert_eq!(response.len(), 55, "{response}");
            assert!(response.starts_with(&format!("00-{id}-")), "{response}");
        }
    });
}
