//! A real OTLP receiver (the one behind otlp-embedded's Jaeger) on a port of its own.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use otlp_embedded::proto::collector::trace::v1::ExportTraceServiceRequest;
use otlp_embedded::{Config, State, StateRef, TraceService, TraceServiceImpl, TraceServiceServer};
use prost::Message;
use serde_json::Value;
use stent::trace::Protocol;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Receives until it is dropped. It has a runtime of its own, so that tests of any kind can use
/// it, and its methods block for short.
pub struct Receiver {
    state: StateRef,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

/// One received span. Values keep their type: a number that came as text is `"3"`, not `3`.
#[derive(Clone, Debug)]
pub struct Received {
    pub id: String,
    /// Empty for a root.
    pub parent: String,
    pub name: String,
    /// `INTERNAL`, `SERVER`, ...
    pub kind: &'static str,
    pub attributes: Vec<(String, Value)>,
    pub events: Vec<(String, Vec<(String, Value)>)>,
    /// Span ids that it links to.
    pub links: Vec<String>,
    pub failed: bool,
    pub end: u64,
    /// Everything that came, for tests that look for what must not be there.
    pub raw: String,
}

impl Receiver {
    pub fn start(protocol: Protocol) -> Self {
        let state = State::new(Config { max_length: 1000, max_memory_usage: 64 << 20 });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let service = TraceServiceImpl::new(state.clone());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            match protocol {
                Protocol::Grpc => grpc(listener, service).await,
                Protocol::Http => http(listener, service).await,
            }
        });
        Self { state, address, runtime: Some(runtime) }
    }

    /// What `telemetry.otlp` is set to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The trace's spans, as soon as there are `count` of them; fails after 5 s.
    pub fn trace(&self, trace_id: &str, count: usize) -> Vec<Received> {
        let id = hex::decode(trace_id).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let spans = self.now(&id);
            if spans.len() >= count {
                return spans;
            }
            let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
            assert!(Instant::now() < deadline, "{} of {count} spans came: {names:?}", spans.len());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn now(&self, id: &[u8]) -> Vec<Received> {
        let handle = self.runtime.as_ref().unwrap().handle();
        // On a thread of its own, since a test's own runtime forbids to wait for another.
        let trace = std::thread::scope(|scope| {
            let read = async { self.state.write().await.get_by_id(id) };
            scope.spawn(|| handle.block_on(read)).join().unwrap()
        });
        let batch = trace.map(|trace| trace.to_tempo_batch()).unwrap_or_default();
        let batches = batch["batches"].as_array().cloned().unwrap_or_default();
        batches.iter().map(|b| span(&b["instrumentationLibrarySpans"][0]["spans"][0])).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The trace as indented text, children in the order of their names, values with their types.
pub fn draw(spans: &[Received]) -> String {
    fn below(spans: &[Received], parent: &Received, depth: usize, text: &mut String) {
        let indent = "  ".repeat(depth);
        let list = |values: &[(String, Value)]| {
            let mut values: Vec<_> = values.iter().map(|(k, v)| format!(" {k}={v}")).collect();
            values.sort();
            values.concat()
        };
        let failed = if parent.failed { " FAILED" } else { "" };
        let attributes = list(&parent.attributes);
        writeln!(text, "{indent}{} {}{failed}{attributes}", parent.name, parent.kind).unwrap();
        for (name, values) in &parent.events {
            writeln!(text, "{indent}  ! {name}{}", list(values)).unwrap();
        }
        for link in &parent.links {
            let target = spans.iter().find(|span| span.id == *link);
            let target = target.map_or("another trace", |span| span.name.as_str());
            writeln!(text, "{indent}  -> {target}").unwrap();
        }
        let mut children: Vec<_> = spans.iter().filter(|span| span.parent == parent.id).collect();
        children.sort_by(|a, b| a.name.cmp(&b.name));
        for child in children {
            below(spans, child, depth + 1, text);
        }
    }
    let mut text = String::new();
    let known = |id: &str| spans.iter().any(|span| span.id == id);
    for root in spans.iter().filter(|span| !known(&span.parent)) {
        below(spans, root, 0, &mut text);
    }
    text
}

async fn grpc(listener: TcpListener, service: TraceServiceImpl) {
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(service))
        .serve_with_incoming(incoming)
        .await
        .unwrap();
}

async fn http(listener: TcpListener, service: TraceServiceImpl) {
    let service = std::sync::Arc::new(service);
    let receive = move |body: Bytes| {
        let service = service.clone();
        async move {
            let Ok(request) = ExportTraceServiceRequest::decode(body) else {
                return (StatusCode::BAD_REQUEST, Vec::new());
            };
            let answer = service.export(tonic::Request::new(request)).await.unwrap();
            (StatusCode::OK, answer.into_inner().encode_to_vec())
        }
    };
    axum::serve(listener, axum::Router::new().route("/v1/traces", post(receive))).await.unwrap();
}

fn span(value: &Value) -> Received {
    Received {
        id: bytes(&value["span_id"]),
        parent: bytes(&value["parent_span_id"]),
        name: value["name"].as_str().unwrap().to_owned(),
        kind: match value["kind"].as_i64() {
            Some(1) => "INTERNAL",
            Some(2) => "SERVER",
            Some(3) => "CLIENT",
            _ => "OTHER",
        },
        attributes: pairs(&value["attributes"]),
        events: list(&value["events"])
            .iter()
            .map(|event| {
                let mut values = pairs(&event["attributes"]);
                // The receiver adds the event's name as `message`.
                values.retain(|(key, _)| key != "message");
                (event["name"].as_str().unwrap().to_owned(), values)
            })
            .collect(),
        links: list(&value["links"]).iter().map(|link| bytes(&link["span_id"])).collect(),
        failed: value["status"]["code"] == 2,
        end: value["end_time_unix_nano"].as_u64().unwrap(),
        raw: value.to_string(),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn bytes(value: &Value) -> String {
    let bytes = list(value).iter().map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap());
    hex::encode(bytes.collect::<Vec<_>>())
}

fn pairs(value: &Value) -> Vec<(String, Value)> {
    let pair = |kv: &Value| (kv["key"].as_str().unwrap().to_owned(), plain(&kv["value"]["value"]));
    list(value).iter().map(pair).collect()
}

/// `{"IntValue": 3}` to `3`.
fn plain(value: &Value) -> Value {
    let (kind, inner) = value.as_object().unwrap().iter().next().unwrap();
    match kind.as_str() {
        "ArrayValue" => list(&inner["values"]).iter().map(|v| plain(&v["value"])).collect(),
        _ => inner.clone(),
    }
}
