//! An OTLP receiver on a port of its own, and what it received as plain values.
//!
//! It speaks the protocol through the generated services of opentelemetry-proto. A receiver with
//! a build of its own (otlp-embedded) was tried: it changes the features of so many shared crates
//! that `cargo test` would compile llama.cpp and wasmtime a second time.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use prost::Message;
use serde_json::Value;
use stent::trace::Protocol;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status};

/// Receives until it is dropped, on a runtime of its own, so that tests of any kind can use it.
pub struct Receiver {
    store: Store,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

/// Long enough for a machine that builds something else at the same time.
const PATIENCE: Duration = Duration::from_secs(30);

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
    pub start: u64,
    pub end: u64,
    /// Everything that came, for tests that look for what must not be there.
    pub raw: String,
}

/// All received spans, and the time that it takes to take in a batch.
#[derive(Clone, Default)]
struct Store {
    spans: Arc<Mutex<VecDeque<Span>>>,
    schemas: Arc<Mutex<BTreeSet<String>>>,
    /// For each batch.
    takes: Duration,
}

impl Store {
    fn take_in(&self, request: ExportTraceServiceRequest) {
        let (mut schemas, mut spans) = (self.schemas.lock().unwrap(), self.spans.lock().unwrap());
        for resource in request.resource_spans {
            schemas.insert(resource.schema_url);
            spans.extend(resource.scope_spans.into_iter().flat_map(|s| s.spans));
        }
    }
}

#[tonic::async_trait]
impl TraceService for Store {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        tokio::time::sleep(self.takes).await;
        self.take_in(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    pub fn start(protocol: Protocol) -> Self {
        Self::slow(protocol, Duration::ZERO)
    }

    /// Takes so long for each batch.
    pub fn slow(protocol: Protocol, takes: Duration) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(listener, protocol, takes)
    }

    /// On a port that was chosen before: a collector that is back.
    pub fn on(listener: std::net::TcpListener, protocol: Protocol, takes: Duration) -> Self {
        let store = Store {
            spans: Arc::default(),
            schemas: Arc::default(),
            takes,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let service = store.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            match protocol {
                Protocol::Grpc => grpc(listener, service).await,
                Protocol::Http => http(listener, service).await,
            }
        });
        Self {
            store,
            address,
            runtime: Some(runtime),
        }
    }

    /// What `telemetry.otlp` is set to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The conventions that resources say they keep to.
    pub fn schemas(&self) -> Vec<String> {
        self.store.schemas.lock().unwrap().iter().cloned().collect()
    }

    /// How many spans came.
    pub fn count(&self) -> usize {
        self.store.spans.lock().unwrap().len()
    }

    /// The trace's spans, as soon as there are `count` of them; fails after 30 s.
    pub fn trace(&self, trace_id: &str, count: usize) -> Vec<Received> {
        let id = hex::decode(trace_id).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let spans = self.now(&id);
            if spans.len() >= count {
                return spans;
            }
            let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
            assert!(
                Instant::now() < deadline,
                "{} of {count} spans came: {names:?}",
                spans.len()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A trace's server span, once it has come; fails after 30 s.
    pub fn server(&self, trace_id: &str) -> Received {
        let id = hex::decode(trace_id).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let spans = self.now(&id);
            if let Some(server) = spans.into_iter().find(|span| span.kind == "SERVER") {
                return server;
            }
            assert!(
                Instant::now() < deadline,
                "no server span of {trace_id} came"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The spans of a trace whose root has this name and attribute, once the root has come: it
    /// comes last. Fails after 30 s.
    pub fn rooted(&self, name: &str, key: &str, value: &str) -> Vec<Received> {
        let deadline = Instant::now() + PATIENCE;
        let wanted = |span: &Span| {
            let told = |(k, v): &(String, Value)| k == key && v == value;
            span.parent_span_id.is_empty()
                && span.name == name
                && pairs(&span.attributes).iter().any(told)
        };
        loop {
            let root = self
                .store
                .spans
                .lock()
                .unwrap()
                .iter()
                .find(|s| wanted(s))
                .cloned();
            if let Some(root) = root {
                return self.now(&root.trace_id);
            }
            assert!(
                Instant::now() < deadline,
                "no {name} with {key}={value} came"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn now(&self, id: &[u8]) -> Vec<Received> {
        let spans = self.store.spans.lock().unwrap();
        spans
            .iter()
            .filter(|span| span.trace_id == id)
            .map(received)
            .collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Received {
    /// An attribute's value as text; empty where there is none.
    pub fn told(&self, key: &str) -> &str {
        let found = self.attributes.iter().find(|(k, _)| k == key);
        found
            .and_then(|(_, value)| value.as_str())
            .unwrap_or_default()
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
        writeln!(
            text,
            "{indent}{} {}{failed}{attributes}",
            parent.name, parent.kind
        )
        .unwrap();
        for (name, values) in &parent.events {
            writeln!(text, "{indent}  ! {name}{}", list(values)).unwrap();
        }
        for link in &parent.links {
            let target = spans.iter().find(|span| span.id == *link);
            let target = target.map_or("another trace", |span| span.name.as_str());
            writeln!(text, "{indent}  -> {target}").unwrap();
        }
        let mut children: Vec<_> = spans
            .iter()
            .filter(|span| span.parent == parent.id)
            .collect();
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

async fn grpc(listener: TcpListener, service: Store) {
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(service))
        .serve_with_incoming(incoming)
        .await
        .unwrap();
}

async fn http(listener: TcpListener, service: Store) {
    async fn receive(State(store): State<Store>, body: Bytes) -> (StatusCode, Vec<u8>) {
        let Ok(request) = ExportTraceServiceRequest::decode(body) else {
            return (StatusCode::BAD_REQUEST, Vec::new());
        };
        tokio::time::sleep(store.takes).await;
        store.take_in(request);
        (
            StatusCode::OK,
            ExportTraceServiceResponse::default().encode_to_vec(),
        )
    }
    let router = axum::Router::new()
        .route("/v1/traces", post(receive))
        .with_state(service);
    axum::serve(listener, router).await.unwrap();
}

fn received(span: &Span) -> Received {
    Received {
        id: hex::encode(&span.span_id),
        parent: hex::encode(&span.parent_span_id),
        name: span.name.clone(),
        kind: match span.kind() {
            SpanKind::Internal => "INTERNAL",
            SpanKind::Server => "SERVER",
            _ => "OTHER",
        },
        attributes: pairs(&span.attributes),
        events: span
            .events
            .iter()
            .map(|e| (e.name.clone(), pairs(&e.attributes)))
            .collect(),
        links: span
            .links
            .iter()
            .map(|link| hex::encode(&link.span_id))
            .collect(),
        failed: span.status.as_ref().is_some_and(|status| status.code == 2),
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        raw: format!("{span:?}"),
    }
}

fn pairs(attributes: &[KeyValue]) -> Vec<(String, Value)> {
    attributes
        .iter()
        .map(|kv| (kv.key.clone(), plain(kv.value.as_ref())))
        .collect()
}

fn plain(value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.as_str().into(),
        Some(any_value::Value::BoolValue(truth)) => (*truth).into(),
        Some(any_value::Value::IntValue(number)) => (*number).into(),
        Some(any_value::Value::DoubleValue(number)) => (*number).into(),
        Some(any_value::Value::ArrayValue(array)) => array
            .values
            .iter()
            .map(|value| plain(Some(value)))
            .collect(),
        other => panic!("no attribute of ours has the value {other:?}"),
    }
}
