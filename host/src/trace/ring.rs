//! The last requests and policy changes with their stages, kept in this process: what the console
//! shows without any collector.
//!
//! It holds what an exporter may see, never what people wrote, whatever `telemetry.capture_content`
//! says. It is bounded: the oldest traces go first, and so do stages whose request never ends.

use std::collections::VecDeque;
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
/// Stages of one trace; those beyond are left out.
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
    #[serde(skip)]
    began: SystemTime,
}

/// A point in time within a stage, such as `first_token`.
#[derive(Clone, Debug, Serialize)]
pub struct Moment {
    pub name: String,
    /// Microseconds from the root's start.
    pub at_us: i64,
    pub attributes: Map<String, serde_json::Value>,
    #[serde(skip)]
    at: SystemTime,
}

/// The traces of this process. Share it in an `Arc`.
#[derive(Debug, Default)]
pub struct Ring(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Newest last.
    traces: VecDeque<(TraceId, Trace)>,
    /// Stages end before their request does, most of them.
    waiting: VecDeque<(TraceId, Stage)>,
}

impl Ring {
    /// The last `most` traces, newest first.
    pub fn last(&self, most: usize) -> Vec<Trace> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = kept.traces.iter().rev().take(most);
        newest.map(|(_, trace)| trace.clone()).collect()
    }

    pub(super) fn ended(&self, span: &SpanData) {
        let id = span.span_context.trace_id();
        let stage = Stage::new(span);
        // What continues a caller's trace is a root of ours.
        let root = span.parent_span_is_remote || span.parent_span_id == SpanId::INVALID;
        // Strangers who ask for what is nowhere would push out what was asked.
        let nowhere = span.span_kind == SpanKind::Server
            && !stage.attributes.contains_key(semconv::HTTP_ROUTE);
        if root && nowhere {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match root {
            true => kept.begin(id, stage),
            false => kept.add(id, stage),
        }
    }
}

impl Kept {
    fn begin(&mut self, id: TraceId, root: Stage) {
        let mut trace = Trace {
            trace_id: id.to_string(),
            at_ms: millis(root.began),
            root,
            stages: Vec::new(),
        };
        trace.root.place(trace.root.began);
        gather(&mut self.waiting, id, &mut trace);
        if self.traces.len() == TRACES {
            self.traces.pop_front();
        }
        self.traces.push_back((id, trace));
    }

    fn add(&mut self, id: TraceId, stage: Stage) {
        if self.waiting.len() == WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((id, stage));
        // The stage may end after its request: an answer is stored when the client has it.
        let mut ended = self.traces.iter_mut().rev().filter(|(it, _)| *it == id);
        if let Some((_, trace)) = ended.find(|(_, trace)| trace.holds(&self.waiting)) {
            gather(&mut self.waiting, id, trace);
        }
    }
}

/// Moves those stages from `waiting` to the trace that are below it.
fn gather(waiting: &mut VecDeque<(TraceId, Stage)>, id: TraceId, trace: &mut Trace) {
    while let Some(mut stage) = take_below(waiting, id, trace) {
        stage.place(trace.root.began);
        if trace.stages.len() < STAGES {
            trace.stages.push(stage);
        }
    }
    trace
        .stages
        .sort_by_key(|stage| (stage.start_us, -stage.duration_us));
}

/// The newest first: a parent ends after its children.
fn take_below(
    waiting: &mut VecDeque<(TraceId, Stage)>,
    id: TraceId,
    trace: &Trace,
) -> Option<Stage> {
    let below = |(it, stage): &(TraceId, Stage)| *it == id && trace.is_parent_of(stage);
    let at = waiting.iter().rposition(below)?;
    waiting.remove(at).map(|(_, stage)| stage)
}

impl Trace {
    fn is_parent_of(&self, stage: &Stage) -> bool {
        let is = |it: &Stage| it.id == stage.parent;
        is(&self.root) || self.stages.iter().any(is)
    }

    fn holds(&self, waiting: &VecDeque<(TraceId, Stage)>) -> bool {
        waiting
            .back()
            .is_some_and(|(_, stage)| self.is_parent_of(stage))
    }
}

impl Stage {
    fn new(span: &SpanData) -> Self {
        let took = span.end_time.duration_since(span.start_time);
        let moments = span.events.events.iter().map(|event| Moment {
            name: event.name.to_string(),
            at_us: 0,
            attributes: attributes(&event.attributes),
            at: event.timestamp,
        });
        Self {
            id: span.span_context.span_id().to_string(),
            parent: span.parent_span_id.to_string(),
            name: short(&span.name),
            start_us: 0,
            duration_us: micros(took.unwrap_or_default()),
            failed: matches!(span.status, Status::Error { .. }),
            attributes: attributes(&span.attributes),
            events: moments.collect(),
            began: span.start_time,
        }
    }

    /// Counts its times from the root's start.
    fn place(&mut self, began: SystemTime) {
        let since = |at: SystemTime| match at.duration_since(began) {
            Ok(later) => micros(later),
            Err(earlier) => -micros(earlier.duration()),
        };
        self.start_us = since(self.began);
        for moment in &mut self.events {
            moment.at_us = since(moment.at);
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
        self.0.ended(&span);
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
