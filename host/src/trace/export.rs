//! The way of a finished span: counted, queued, stripped of what may not leave, sent.
//!
//! Nothing here ever makes a request wait: a full queue or a missing collector costs spans, and
//! each lost span is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData,
    SpanExporter, SpanProcessor,
};

use super::Settings;
use super::ring::{Keeping, RecordAll, Ring};
use super::semconv;

/// Spans that may wait for export: those of some 300 requests.
const QUEUE: usize = 4096;
const BATCH: usize = 512;
/// Longest stay in the queue, so that a trace can be looked at soon after its request.
const DELAY: Duration = Duration::from_secs(1);

/// What became of the spans so far.
#[derive(Debug, Default)]
pub struct Counts {
    ended: AtomicU64,
    exported: AtomicU64,
    dropped: AtomicU64,
    /// In the queue or in the exporter's hands.
    waiting: AtomicUsize,
    closed: AtomicBool,
}

impl Counts {
    /// Sampled spans that have ended.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Spans that the collector has taken.
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Spans that were lost to a full queue, to a collector that failed, or to the shutdown.
    pub fn dropped(&self) -> u64 {
        if self.closed.load(Ordering::Relaxed) {
            // Nothing that still waits will be sent.
            return self.ended().saturating_sub(self.exported());
        }
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// A provider that samples as `settings` say and exports through `exporter`, if there is one.
/// Without one, spans still have ids, which logs and `traceresponse` show.
pub(super) fn provider<E: SpanExporter + 'static>(
    settings: &Settings,
    exporter: Option<E>,
    counts: &Arc<Counts>,
    ring: &Arc<Ring>,
) -> SdkTracerProvider {
    let ratio = Sampler::TraceIdRatioBased(settings.sample);
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder()
        .with_service_name("stent")
        .with_schema_url([version], semconv::SCHEMA_URL)
        .build();
    let builder = SdkTracerProvider::builder()
        .with_resource(resource)
        // The caller's decision holds, so that a trace is whole or absent.
        .with_sampler(RecordAll(Sampler::ParentBased(Box::new(ratio))));
    let ring = Arc::clone(ring);
    let Some(exporter) = exporter else {
        return builder.with_span_processor(Keeping(ring)).build();
    };
    let gate = Gate {
        next: exporter,
        content: settings.capture_content,
        counts: Arc::clone(counts),
        failing: AtomicBool::new(false),
    };
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(DELAY)
        .build();
    let batch = BatchSpanProcessor::builder(gate)
        .with_batch_config(config)
        .build();
    builder
        .with_span_processor(Counting {
            next: batch,
            counts: Arc::clone(counts),
            ring,
        })
        .build()
}

/// Bounds the queue in front of the batch processor, which drops without saying how many, and keeps
/// spans in the ring: as two processors, each would get a copy of every span.
#[derive(Debug)]
struct Counting<P> {
    next: P,
    counts: Arc<Counts>,
    ring: Arc<Ring>,
}

impl<P: SpanProcessor> SpanProcessor for Counting<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.next.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        self.ring.ended(span.clone());
        if !span.span_context.is_sampled() {
            return;
        }
        self.counts.ended.fetch_add(1, Ordering::Relaxed);
        if self.counts.waiting.fetch_add(1, Ordering::Relaxed) < QUEUE {
            return self.next.on_end(span);
        }
        self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}

/// The last stop before the network: lets listed attributes through and counts what was sent.
#[derive(Debug)]
struct Gate<E> {
    next: E,
    content: bool,
    counts: Arc<Counts>,
    /// The last batch was lost: say so once, not once a batch.
    failing: AtomicBool,
}

impl<E> Gate<E> {
    fn strip(&self, span: &mut SpanData) {
        span.dropped_attributes_count += self.keep_listed(&mut span.attributes);
        for event in &mut span.events.events {
            event.dropped_attributes_count += self.keep_listed(&mut event.attributes);
        }
        for link in &mut span.links.links {
            link.dropped_attributes_count += self.keep_listed(&mut link.attributes);
        }
    }

    /// Returns how many were taken out.
    fn keep_listed(&self, attributes: &mut Vec<KeyValue>) -> u32 {
        let before = attributes.len();
        attributes.retain(|kv| semconv::exported(kv.key.as_str(), self.content));
        u32::try_from(before - attributes.len()).unwrap_or(u32::MAX)
    }

    fn settle(&self, spans: u64, result: &OTelSdkResult) {
        match result {
            Ok(()) => {
                self.counts.exported.fetch_add(spans, Ordering::Relaxed);
                if self.failing.swap(false, Ordering::Relaxed) {
                    let dropped = self.counts.dropped();
                    tracing::info!(dropped, "the trace collector is back");
                }
            }
            Err(error) => {
                self.counts.dropped.fetch_add(spans, Ordering::Relaxed);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the trace collector failed; spans are dropped until it is back");
                }
            }
        }
    }
}

impl<E: SpanExporter> SpanExporter for Gate<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        for span in &mut batch {
            self.strip(span);
        }
        let spans = batch.len();
        let result = self.next.export(batch).await;
        self.counts.waiting.fetch_sub(spans, Ordering::Relaxed);
        self.settle(spans as u64, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}
