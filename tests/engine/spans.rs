//! The spans of one job, as they are exported: where they hang and what they tell.

use opentelemetry::Value;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SpanData};
use stent::engine::Kind;
use stent::trace::{self, Held, Settings, spans};
use stent::types::Sampling;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::Registry;

use super::{Bench, job};

fn number(span: &SpanData, key: &str) -> Option<i64> {
    let found = span.attributes.iter().find(|kv| kv.key.as_str() == key);
    found.map(|kv| match kv.value {
        Value::I64(number) => number,
        ref other => panic!("{key} is {other:?}"),
    })
}

#[test]
fn waiting_hangs_beside_the_generation_and_its_parts_below() {
    let bench = Bench::new(|settings| settings.kind = Kind::Scripted);
    let exporter = InMemorySpanExporter::default();
    let (layer, guard) = trace::layer(&Settings::default(), Some(exporter.clone()));
    tracing::subscriber::with_default(Registry::default().with(layer), || {
        let request = Held::new(spans::server("POST", "/chat", None));
        let mut job = job(None, vec![1, 5, 6, 7], 50);
        job.span = spans::chat(&request, "scripted", &Sampling::greedy(), 50);
        bench.run(job).end.unwrap();
    });
    guard.flush();
    let seen = exporter.get_finished_spans().unwrap();
    assert_eq!(seen.len(), 5, "a span leaked or is missing: {seen:#?}");
    let of = |name: &str| seen.iter().find(|span| span.name == name).unwrap();
    let hangs_below = |name: &str, parent: &str| {
        assert_eq!(of(name).parent_span_id, of(parent).span_context.span_id());
    };
    hangs_below("queue.wait", "POST /chat");
    hangs_below("prefill", "chat scripted");
    hangs_below("decode", "chat scripted");
    assert_eq!(number(of("prefill"), "stent.tokens.prompt"), Some(4));
    assert_eq!(number(of("prefill"), "stent.tokens.reused"), Some(0));
    assert_eq!(number(of("decode"), "stent.tokens.output"), Some(12));
    let moments = &of("chat scripted").events.events;
    assert_eq!(moments.len(), 1, "{moments:?}");
    assert_eq!(moments[0].name, "first_token");
}
