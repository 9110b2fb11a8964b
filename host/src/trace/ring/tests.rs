use opentelemetry::trace::{SpanContext, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};

use super::*;

/// Span `id` of trace `trace` below span `parent`; 0: it is a root.
fn span(trace: u128, id: u64, parent: u64) -> SpanData {
    let began = UNIX_EPOCH + Duration::from_micros(id);
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(trace),
            SpanId::from(id),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        ),
        parent_span_id: SpanId::from(parent),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: format!("span {id}").into(),
        start_time: began,
        end_time: began + Duration::from_micros(5),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::default(),
    }
}

fn names(trace: &Trace) -> Vec<&str> {
    trace.stages.iter().map(|it| it.name.as_str()).collect()
}

fn kept(ring: &Ring) -> usize {
    let kept = ring.0.lock().unwrap();
    assert_eq!(
        kept.waiting_spans,
        kept.waiting
            .values()
            .map(|id| kept.traces[id].list.len())
            .sum::<usize>()
    );
    kept.traces.values().map(|spans| spans.list.len()).sum()
}

#[test]
fn a_trace_is_whole_whatever_ends_first() {
    let ring = Ring::default();
    // A grandchild before its parent, one of another trace, one after the root.
    for span in [
        span(1, 12, 11),
        span(2, 21, 20),
        span(1, 11, 10),
        span(1, 10, 0),
    ] {
        ring.ended(span);
    }
    ring.ended(span(1, 13, 11));
    let [trace] = &ring.last(9)[..] else {
        panic!("one request has ended");
    };
    assert_eq!(trace.root.name, "span 10");
    assert_eq!(names(trace), ["span 11", "span 12", "span 13"]);
    assert_eq!(
        (trace.stages[1].start_us, trace.stages[1].duration_us),
        (2, 5)
    );
}

#[test]
fn requests_of_one_trace_are_told_apart_and_go_one_by_one() {
    let ring = Ring::default();
    let root = |id| SpanData {
        parent_span_is_remote: true,
        ..span(1, id, 7)
    };
    for request in (10..).step_by(10).take(2 * TRACES) {
        ring.ended(span(1, request + 1, request));
        ring.ended(root(request));
    }
    let last = ring.last(2);
    assert_eq!(names(&last[0]), [format!("span {}", 20 * TRACES + 1)]);
    assert_eq!(names(&last[1]), [format!("span {}", 20 * TRACES - 9)]);
    assert_eq!(ring.last(usize::MAX).len(), TRACES);
    assert_eq!(kept(&ring), 2 * TRACES);
}

#[test]
fn what_never_ends_makes_room_oldest_first() {
    let ring = Ring::default();
    for trace in 1..=WAITING as u64 {
        ring.ended(span(trace.into(), 2 * trace, 1));
        ring.ended(span(trace.into(), 2 * trace + 1, 1));
    }
    assert_eq!(kept(&ring), WAITING);
    for trace in [1, WAITING as u128] {
        ring.ended(span(trace, 1, 0));
    }
    assert_eq!(ring.last(1)[0].stages.len(), 2);
    assert_eq!(ring.last(2)[1].stages.len(), 0);
}

#[test]
fn stages_and_strangers_are_bounded() {
    let ring = Ring::default();
    for id in 0..1_000 {
        ring.ended(span(1, 100 + id, 1));
    }
    ring.ended(span(1, 1, 0));
    assert_eq!(ring.last(1)[0].stages.len(), STAGES);
    let nowhere = || SpanData {
        span_kind: SpanKind::Server,
        ..span(2, 1, 0)
    };
    ring.ended(span(2, 2, 1));
    ring.ended(nowhere());
    assert_eq!(ring.last(2).len(), 1);
    let found = SpanData {
        attributes: vec![KeyValue::new(semconv::HTTP_ROUTE, "/chat")],
        ..nowhere()
    };
    ring.ended(found);
    assert_eq!(names(&ring.last(1)[0]), Vec::<&str>::new());
}

#[test]
fn nobodys_words_are_held() {
    let ring = Ring::default();
    ring.ended(SpanData {
        attributes: vec![
            KeyValue::new(semconv::INPUT_MESSAGES, "canary"),
            KeyValue::new(semconv::OUTCOME, "ok"),
            KeyValue::new("not.listed", "canary"),
        ],
        ..span(1, 1, 0)
    });
    assert!(!format!("{:?}", ring.0.lock().unwrap().traces).contains(semconv::INPUT_MESSAGES));
    let shown = serde_json::to_string(&ring.last(1)).unwrap();
    assert!(shown.contains("ok") && !shown.contains("canary"), "{shown}");
}
