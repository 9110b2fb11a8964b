//! The last requests and policy changes with their stages, kept in this process: what the console
//! shows without any collector.
//!
//! It holds what an exporter may see, never what people wrote, whatever `telemetry.capture_content`
//! says. It is bounded: the oldest traces go first, and so do stages whose request never ends.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Link, SpanId, SpanKind, Status, TraceId};
use opentelemetry::{Array, Context, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    SamplingDecision, SamplingResult, ShouldSample, Span, SpanData, SpanProcessor,
};
use serde::Serialize;
use serde_json::{Map, json};

use super::semconv;

/// Traces that are kept.
pub const TRACES: usize = 200;
/// Stages of one trace, for each request in it; those beyond are left out.
pub const STAGES: usize = 100;
/// Stages whose request has not ended yet, of all requests together.
pub const WAITING: usize = 4096;
/// Characters of one attribute.
const TEXT: usize = 300;

/// A request, or a change of the policies.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    pub trace_id: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    #[serde(flatten)]
    pub root: Stage,
    /// Oldest first.
    pub stages: Vec<Stage>,
}

/// One span.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    pub id: String,
    /// The stage that it is part of.
    pub parent: String,
    pub name: String,
    /// Microseconds from the root's start.
    pub start_us: i64,
    pub duration_us: i64,
    pub failed: bool,
    pub attributes: Map<String, serde_json::Value>,
    pub events: Vec<Moment>,
}

/// A point in time within a stage, such as `first_token`.
#[derive(Clone, Debug, Serialize)]
pub struct Moment {
    pub name: String,
    /// Microseconds from the root's start.
    pub at_us: i64,
    pub attributes: Map<String, serde_json::Value>,
}

/// The traces of this process. Share it in an `Arc`.
///
/// A span is kept as it ended; what is shown is made of it when somebody looks.
#[derive(Debug, Default)]
pub struct Ring(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    traces: HashMap<TraceId, Spans>,
    /// The requests that have ended, newest last.
    ended: VecDeque<(TraceId, SpanId)>,
    /// Traces without one, by the age of their first span.
    waiting: BTreeMap<u64, TraceId>,
    waiting_spans: usize,
    /// Traces seen so far.
    seen: u64,
}

/// Those of one trace. A caller who sends several requests under one trace id has several roots.
#[derive(Debug)]
struct Spans {
    list: Vec<Arc<SpanData>>,
    /// How many of them are in `Kept::ended`.
    roots: usize,
    /// Its place in `Kept::waiting` while there are none.
    age: u64,
}

impl Ring {
    /// The last `most` traces, newest first.
    pub fn last(&self, most: usize) -> Vec<Trace> {
        // The lock is held for no longer than it takes to point at them: requests wait for it.
        let newest: Vec<_> = {
            let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let newest = kept.ended.iter().rev().take(most);
            newest
                .filter_map(|(id, root)| Some((*root, kept.traces.get(id)?.list.clone())))
                .collect()
        };
        let traces = newest.iter();
        traces
            .filter_map(|(root, spans)| Trace::of(*root, spans))
            .collect()
    }

    pub(super) fn ended(&self, mut span: SpanData) {
        let content = |kv: &KeyValue| semconv::is_content(kv.key.as_str());
        if span.attributes.iter().any(content) {
            span.attributes.retain(|kv| !content(kv));
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.add(span);
    }
}

impl Kept {
    fn add(&mut self, span: SpanData) {
        let (id, own) = (span.span_context.trace_id(), span.span_context.span_id());
        // What continues a caller's trace is a root of ours.
        let root = span.parent_span_is_remote || span.parent_span_id == SpanId::INVALID;
        if root && is_nowhere(&span) {
            return self.leave(id);
        }
        let (seen, waiting) = (&mut self.seen, &mut self.waiting);
        let spans = self.traces.entry(id).or_insert_with(|| {
            *seen += 1;
            waiting.insert(*seen, id);
            Spans {
                list: Vec::with_capacity(32),
                roots: 0,
                age: *seen,
            }
        });
        if root || spans.list.len() < STAGES * (spans.roots + 1) {
            spans.list.push(Arc::new(span));
            self.waiting_spans += usize::from(spans.roots == 0);
        }
        if root {
            self.end(id, own);
        }
        while self.waiting_spans > WAITING {
            let Some((_, oldest)) = self.waiting.pop_first() else {
                return;
            };
            let gone = self.traces.remove(&oldest);
            self.waiting_spans -= gone.map_or(0, |spans| spans.list.len());
        }
    }

    fn end(&mut self, id: TraceId, root: SpanId) {
        if let Some(spans) = self.traces.get_mut(&id) {
            if spans.roots == 0 {
                self.waiting.remove(&spans.age);
                self.waiting_spans -= spans.list.len();
            }
            spans.roots += 1;
        }
        self.ended.push_back((id, root));
        if self.ended.len() > TRACES
            && let Some((oldest, root)) = self.ended.pop_front()
            && let Some(spans) = self.traces.get_mut(&oldest)
        {
            spans.roots -= 1;
            if spans.roots == 0 {
                self.traces.remove(&oldest);
            } else {
                let gone = family(root, &spans.list);
                spans
                    .list
                    .retain(|s| !gone.contains(&s.span_context.span_id()));
            }
        }
    }

    /// A trace that is not kept takes its stages along.
    fn leave(&mut self, id: TraceId) {
        if self.traces.get(&id).is_some_and(|spans| spans.roots == 0)
            && let Some(spans) = self.traces.remove(&id)
        {
            self.waiting.remove(&spans.age);
            self.waiting_spans -= spans.list.len();
        }
    }
}

/// Strangers who ask for what is nowhere would push out what was asked.
fn is_nowhere(root: &SpanData) -> bool {
    let routed = |kv: &KeyValue| kv.key.as_str() == semconv::HTTP_ROUTE;
    root.span_kind == SpanKind::Server && !root.attributes.iter().any(routed)
}

/// The ids of `root` and of what hangs below it, however deep.
fn family(root: SpanId, spans: &[Arc<SpanData>]) -> HashSet<SpanId> {
    let mut ids = HashSet::from([root]);
    // Most spans end before those that they hang below: a pass from the end finds nearly all.
    let mut before = 0;
    while before < ids.len() {
        before = ids.len();
        for span in spans.iter().rev() {
            if ids.contains(&span.parent_span_id) {
                ids.insert(span.span_context.span_id());
            }
        }
    }
    ids
}

impl Trace {
    fn of(root: SpanId, spans: &[Arc<SpanData>]) -> Option<Self> {
        let family = family(root, spans);
        let is_root = |span: &&Arc<SpanData>| span.span_context.span_id() == root;
        let root = spans.iter().find(is_root)?;
        let began = root.start_time;
        let mut stages: Vec<_> = spans
            .iter()
            .filter(|span| !is_root(span) && family.contains(&span.span_context.span_id()))
            .map(|span| Stage::new(span, began))
            .collect();
        stages.sort_by_key(|stage| (stage.start_us, -stage.duration_us));
        Some(Self {
            trace_id: root.span_context.trace_id().to_string(),
            at_ms: millis(began),
            root: Stage::new(root, began),
            stages,
        })
    }
}

impl Stage {
    /// Times count from `began`, the root's start.
    fn new(span: &SpanData, began: SystemTime) -> Self {
        let since = |at: SystemTime| match at.duration_since(began) {
            Ok(later) => micros(later),
            Err(earlier) => -micros(earlier.duration()),
        };
        let took = span.end_time.duration_since(span.start_time);
        let moments = span.events.events.iter().map(|event| Moment {
            name: event.name.to_string(),
            at_us: since(event.timestamp),
            attributes: attributes(&event.attributes),
        });
        Self {
            id: span.span_context.span_id().to_string(),
            parent: span.parent_span_id.to_string(),
            name: short(&span.name),
            start_us: since(span.start_time),
            duration_us: micros(took.unwrap_or_default()),
            failed: matches!(span.status, Status::Error { .. }),
            attributes: attributes(&span.attributes),
            events: moments.collect(),
        }
    }
}

/// Those on the list of what may leave the process, and never a person's words.
fn attributes(of: &[KeyValue]) -> Map<String, serde_json::Value> {
    of.iter()
        .filter(|kv| semconv::exported(kv.key.as_str(), false))
        .map(|kv| (kv.key.to_string(), value(&kv.value)))
        .collect()
}

fn value(of: &Value) -> serde_json::Value {
    match of {
        Value::Bool(is) => json!(is),
        Value::I64(n) => json!(n),
        Value::F64(x) => json!(x),
        Value::String(text) => json!(short(text.as_str())),
        Value::Array(Array::String(texts)) => texts
            .iter()
            .map(|text| json!(short(text.as_str())))
            .collect(),
        other => json!(short(&other.as_str())),
    }
}

fn short(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Hands every span that ends to the ring.
#[derive(Debug)]
pub(super) struct Keeping(pub(super) Arc<Ring>);

impl SpanProcessor for Keeping {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.ended(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn set_resource(&mut self, _: &Resource) {}
}

/// Records what is not sampled as well: the collector gets its share, the ring everything.
#[derive(Clone, Debug)]
pub(super) struct RecordAll<S>(pub(super) S);

impl<S: ShouldSample + Clone + 'static> ShouldSample for RecordAll<S> {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self
            .0
            .should_sample(parent, trace_id, name, kind, attributes, links);
        if result.decision == SamplingDecision::Drop {
            result.decision = SamplingDecision::RecordOnly;
        }
        result
    }
}

#[cfg(test)]
mod tests;
