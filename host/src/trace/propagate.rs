//! W3C trace context in and out, and the ids that logs and answers carry.

use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry::{Context, propagation::TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use std::collections::HashMap;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Makes `span` a child of the caller's span. A missing or malformed header starts a new trace,
/// as the recommendation asks (W3C Trace Context, section 4.3).
pub(super) fn set_parent(span: &Span, traceparent: Option<&str>) {
    let Some(header) = traceparent else { return };
    let carrier = HashMap::from([("traceparent".to_owned(), header.to_owned())]);
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    // Fails only where no OpenTelemetry layer is installed: then there is nothing to join.
    let _ = span.set_parent(parent);
}

/// The span's own context: what `coalesce_wait` links to.
pub fn context(span: &Span) -> SpanContext {
    span.context().span().span_context().clone()
}

/// 32 hex digits; `None` without an OpenTelemetry layer.
pub fn trace_id(span: &Span) -> Option<String> {
    let context = context(span);
    context.is_valid().then(|| context.trace_id().to_string())
}

/// Value of the `traceresponse` header (W3C Trace Context, level 2): which trace served the call.
pub fn traceresponse(span: &Span) -> Option<String> {
    let context = context(span);
    context.is_valid().then(|| {
        let (trace, span) = (context.trace_id(), context.span_id());
        format!("00-{trace}-{span}-{:02x}", context.trace_flags().to_u8())
    })
}
