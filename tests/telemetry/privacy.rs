//! What people write leaves the process only where an operator said so.

use std::sync::{Arc, Mutex};

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use stent::trace::{self, Protocol, Settings, spans};
use stent::types::{Finish, Message, Role};
use tracing::{Dispatch, dispatcher};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

use super::sampling;
use crate::support::otlp::Receiver;

const CANARY: &str = "canary-3b1f";

/// Keeps what would be sent.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Memory {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

/// Puts the canary everywhere a careless change could put it.
fn careless() -> String {
    let server = spans::server("POST", "/chat/stream", None);
    let chat = spans::chat(&server, "demo", &sampling(), 16);
    let asked = Message {
        id: 0,
        role: Role::User,
        text: CANARY.into(),
        tokens: Arc::new([]),
        pinned: false,
        exchange: 0,
    };
    spans::content(&chat, &[asked], CANARY, Finish::Stop);
    server.set_attribute("user.message", CANARY);
    server.set_attribute("session.id", CANARY);
    spans::event(&server, "first_byte", &[("text", CANARY.into())]);
    server.in_scope(|| {
        tracing::error!(text = CANARY, "failed on {CANARY}");
        // Spans of libraries are not part of the tree.
        let _library = tracing::info_span!(target: "hyper", "library", text = CANARY).entered();
    });
    trace::trace_id(&server).unwrap()
}

#[test]
fn unlisted_attributes_events_and_foreign_spans_stay_here() {
    let receiver = Receiver::start(Protocol::Grpc);
    let settings = Settings {
        otlp: receiver.endpoint(),
        ..Settings::default()
    };
    let (layer, guard) = trace::exporting(&settings).unwrap();
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
    let id = dispatcher::with_default(&dispatch, careless);
    guard.close();
    let received = receiver.trace(&id, 2);
    assert_eq!(received.len(), 2, "{received:#?}");
    for span in received {
        assert!(!span.raw.contains(CANARY), "{}", span.raw);
    }
}

#[test]
fn content_capture_lets_only_the_messages_out() {
    let exporter = Memory::default();
    let settings = Settings {
        capture_content: true,
        ..Settings::default()
    };
    let (layer, guard) = trace::layer(&settings, Some(exporter.clone()));
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
    dispatcher::with_default(&dispatch, careless);
    guard.flush();
    let mut with_canary: Vec<String> = std::mem::take(&mut *exporter.0.lock().unwrap())
        .into_iter()
        .flat_map(|span| span.attributes)
        .filter(|kv| kv.value.as_str().contains(CANARY))
        .map(|kv| kv.key.to_string())
        .collect();
    with_canary.sort();
    assert_eq!(
        with_canary,
        ["gen_ai.input.messages", "gen_ai.output.messages"]
    );
}
