//! The spans of one job: where they hang and what they tell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use stent::engine::Kind;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};

use super::{Bench, job};

#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    parent: Option<String>,
    numbers: BTreeMap<String, i64>,
    closed: bool,
}

/// Writes down every span by its name.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<BTreeMap<String, Seen>>>);

struct Numbers<'a>(&'a mut Seen);

impl Visit for Numbers<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.numbers.insert(field.name().into(), value);
    }
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let parent = span.parent().map(|parent| parent.name().to_owned());
        let mut seen = Seen {
            parent,
            ..Seen::default()
        };
        attributes.record(&mut Numbers(&mut seen));
        self.0.lock().unwrap().insert(span.name().into(), seen);
    }
    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let name = context.span(id).unwrap().name().to_owned();
        values.record(&mut Numbers(
            self.0.lock().unwrap().entry(name).or_default(),
        ));
    }
    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let name = context.span(&id).unwrap().name().to_owned();
        self.0.lock().unwrap().entry(name).or_default().closed = true;
    }
}

#[test]
fn waiting_hangs_beside_the_generation_and_its_parts_below() {
    let bench = Bench::new(|settings| settings.kind = Kind::Scripted);
    let recorder = Recorder::default();
    let subscriber = Registry::default().with(recorder.clone());
    tracing::subscriber::with_default(subscriber, || {
        let request = tracing::info_span!("request");
        let mut job = job(None, vec![1, 5, 6, 7], 50);
        job.span = tracing::info_span!(parent: &request, "chat");
        bench.run(job).end.unwrap();
    });
    let seen = recorder.0.lock().unwrap().clone();
    let parent = |name: &str| seen[name].parent.as_deref();
    assert_eq!(parent("queue.wait"), Some("request"));
    assert_eq!(
        (parent("prefill"), parent("decode")),
        (Some("chat"), Some("chat"))
    );
    assert_eq!(seen["prefill"].numbers["stent.tokens.prompt"], 4);
    assert_eq!(seen["prefill"].numbers["stent.tokens.reused"], 0);
    assert_eq!(seen["decode"].numbers["stent.tokens.output"], 12);
    assert!(
        seen.values().all(|seen| seen.closed),
        "a span leaked: {seen:?}"
    );
}
