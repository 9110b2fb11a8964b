//! A server that exports its traces, and how a trace is compared with a drawn one.

use std::path::Path;
use std::sync::Arc;

use reqwest::Response;
use serde_json::{Value, json};
use stent::trace::Protocol;

use crate::policy::guest::Guest;
use crate::support::otlp::{Received, Receiver, draw};
use crate::support::server::{Frames, Server};

/// A server without a model, and where its spans arrive.
pub struct Traced {
    pub server: Server,
    pub receiver: Arc<Receiver>,
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
    pub async fn start(sets: &[&str]) -> Self {
        Self::with(sets, |_| {}).await
    }

    /// `prepare` puts policies into their folder.
    pub async fn with(sets: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let receiver = Arc::new(Receiver::start(Protocol::Grpc));
        Self::into(receiver, sets, prepare).await
    }

    /// Another server whose spans arrive at the same place.
    pub async fn beside(&self, sets: &[&str]) -> Self {
        Self::into(Arc::clone(&self.receiver), sets, |_| {}).await
    }

    async fn into(receiver: Arc<Receiver>, sets: &[&str], prepare: impl FnOnce(&Path)) -> Self {
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

    pub async fn ask(&self, message: &str, session: &str) -> Response {
        let body = json!({ "message": message, "session_id": session });
        self.server.post("/chat/stream", body).await
    }

    /// A stream that has said its first words, and its trace.
    pub async fn begun(&self, message: &str, session: &str) -> (String, Frames) {
        let response = self.ask(message, session).await;
        let trace = trace_of(&response);
        let mut frames = Frames::of(response);
        while !frames.next().await.unwrap().contains("text-delta") {}
        (trace, frames)
    }

    /// The spans of an answer's trace, once all of the expected ones and the root are there.
    pub async fn spans(&self, trace: &str, expected: usize) -> Vec<Received> {
        let (receiver, trace) = (self.receiver.clone(), trace.to_owned());
        tokio::task::spawn_blocking(move || receiver.trace(&trace, expected))
            .await
            .unwrap()
    }

    /// Compares the trace with the drawn one.
    pub async fn is(&self, trace: &str, expected: &str) -> Vec<Received> {
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

/// Where the run was not cut short.
pub fn ends_last(spans: &[Received]) {
    let late = outlasting(spans);
    assert!(late.is_empty(), "the server span ends before {late:?}");
}

/// Of a run that was cut short the engine still ends its step.
pub fn ends_last_but_for_the_run(spans: &[Received]) {
    let run = ["queue.wait", "chat scripted", "prefill", "decode"];
    let late = outlasting(spans);
    let others: Vec<_> = late.iter().filter(|name| !run.contains(name)).collect();
    assert!(others.is_empty(), "the server span ends before {others:?}");
}

pub fn outlasting(spans: &[Received]) -> Vec<&str> {
    let root = spans.iter().find(|span| span.kind == "SERVER").unwrap();
    let late = spans.iter().filter(|span| span.end > root.end);
    late.map(|span| span.name.as_str()).collect()
}

pub fn shown(span: &Received, known: &[&str]) -> Received {
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

pub fn same(found: &str, expected: &str) {
    if found != expected {
        panic!("found:\n{found}\nexpected:\n{expected}");
    }
}

/// The trace id that the answer's head tells.
pub fn trace_of(response: &Response) -> String {
    let header = response.headers()["traceresponse"].to_str().unwrap();
    header.split('-').nth(1).unwrap().to_owned()
}

/// The answer's trace id and its frames.
pub async fn answer(response: Response) -> (String, Vec<Value>) {
    let trace = trace_of(&response);
    (trace, Frames::of(response).rest().await)
}

pub fn put<'a>(name: &'a str, guest: &'a Guest) -> impl FnOnce(&Path) + use<'a> {
    move |folder| std::fs::write(folder.join(name), guest.core()).unwrap()
}

pub const SHARED: [&str; 2] = [
    "policies.cache.scope=tenant",
    "policies.cache.config.scope=tenant",
];

/// Waits until the engine's slots are so.
pub async fn slot(traced: &Traced, what: &str, holds: impl Fn(&Value) -> bool) {
    let looks = async |server: &Server| holds(&server.admin("/admin/slots").await);
    traced.server.until(what, looks).await;
}
