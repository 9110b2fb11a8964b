//! Traces and logs: one subscriber, set up once, that prints events and exports spans.
//!
//! Spans are made in [`spans`] and nowhere else, under the names of [`semconv`]. Events are only
//! printed: they never become span events, because their fields are not on the list of what may
//! leave the process.

mod access;
mod export;
mod log;
mod logging;
mod otlp;
mod outcome;
mod panics;
mod propagate;
pub mod ring;
pub mod semconv;
pub mod spans;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanExporter};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

pub use access::{ACCESS, Finished};
pub use export::Counts;
pub use logging::Logging;
pub use outcome::Outcome;
pub use propagate::{context, trace_id, traceresponse};
pub use ring::Ring;
pub use spans::Held;

use crate::types::wording;

/// Overrides [`LogSettings::filter`].
pub const LOG_VARIABLE: &str = "STENT_LOG";
/// How long the last spans may take to leave.
const DRAIN: Duration = Duration::from_secs(3);

/// `[telemetry]`
#[derive(Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address of an OTLP collector, `http://127.0.0.1:4317`. Empty: nothing is exported.
    #[serde(serialize_with = "wording::hide_login")]
    pub otlp: String,
    pub protocol: Protocol,
    /// Exports what people ask and what the model answers. Off, neither leaves the process.
    pub capture_content: bool,
    /// Part of the traces that is exported, 0 to 1; a caller's own decision goes first.
    pub sample: f64,
    /// Continue the trace of a caller's `traceparent`. Switch off on an edge that strangers reach:
    /// they could otherwise choose trace ids and force sampling.
    pub traceparent: bool,
    /// Where a trace is looked at, `http://localhost:16686/trace/{trace_id}`: the pages link there.
    /// Empty: they show the id.
    #[serde(serialize_with = "wording::hide_login")]
    pub trace_url: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            otlp: String::new(),
            protocol: Protocol::Grpc,
            capture_content: false,
            sample: 1.0,
            traceparent: true,
            trace_url: String::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Grpc,
    /// OTLP/HTTP with protobuf bodies.
    Http,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// A level, or directives such as `info,stent::policy=debug`.
    pub filter: String,
    pub format: LogFormat,
    /// File that lines are appended to, opened again at SIGUSR1; empty: standard error.
    pub file: PathBuf,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Auto,
            file: PathBuf::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    Human,
    Json,
}

impl LogSettings {
    /// Checks the filter, or the variable that takes its place.
    pub fn validate(&self) -> Result<(), TraceError> {
        logging::configured(self).map(drop)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error(
        "telemetry.otlp: {found:?} is not an address, expected one such as \"http://127.0.0.1:4317\""
    )]
    Endpoint { found: String },
    #[error(
        "telemetry.trace_url: {0:?}, expected an address with {{trace_id}} in it, such as \
         \"http://localhost:16686/trace/{{trace_id}}\""
    )]
    TraceUrl(String),
    #[error("telemetry.sample: {0} is out of range, expected 0 to 1")]
    Sample(f64),
    #[error(
        "{origin}: {found:?} is not a log filter, expected a level or directives such as \"info,stent::policy=debug\""
    )]
    Filter {
        /// The key or variable that it came from.
        origin: &'static str,
        found: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("log.filter: {LOG_VARIABLE} is set and decides")]
    Overruled,
    #[error("log.file: {}: cannot be opened: {source}", path.display())]
    LogFile { path: PathBuf, source: io::Error },
    #[error("telemetry.otlp: no exporter for {endpoint:?}")]
    Exporter {
        endpoint: String,
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    #[error("telemetry: the HTTP client could not be made: {0}")]
    Client(String),
    #[error("telemetry: the export thread could not be started")]
    Thread(#[source] io::Error),
    #[error("tracing was set up already in this process")]
    Twice,
}

impl TraceError {
    fn exporter(settings: &Settings, source: opentelemetry_otlp::ExporterBuildError) -> Self {
        Self::Exporter {
            endpoint: wording::without_login(&settings.otlp),
            source,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("otlp", &wording::without_login(&self.otlp))
            .field("protocol", &self.protocol)
            .field("capture_content", &self.capture_content)
            .field("sample", &self.sample)
            .field("traceparent", &self.traceparent)
            .field("trace_url", &wording::without_login(&self.trace_url))
            .finish()
    }
}

impl Settings {
    /// Checks all values; called before anything listens.
    pub fn validate(&self) -> Result<(), TraceError> {
        if !(0.0..=1.0).contains(&self.sample) {
            return Err(TraceError::Sample(self.sample));
        }
        let schemes = ["http://", "https://"];
        let is_url = schemes.iter().any(|s| self.trace_url.starts_with(s));
        let leads = is_url && self.trace_url.contains("{trace_id}");
        if !leads && !self.trace_url.is_empty() {
            return Err(TraceError::TraceUrl(self.trace_url.clone()));
        }
        let host = schemes.iter().find_map(|s| self.otlp.strip_prefix(s));
        if !self.otlp.is_empty() && host.is_none_or(|host| host.is_empty()) {
            return Err(TraceError::Endpoint {
                found: self.otlp.clone(),
            });
        }
        Ok(())
    }
}

/// Sets up logs and traces for the whole process. Works inside and outside of a runtime.
pub fn init(settings: &Settings, log: &LogSettings) -> Result<(Guard, Logging), TraceError> {
    settings.validate()?;
    let (spans, guard) = exporting(settings)?;
    let (lines, logging) = logging::lines(log)?;
    tracing_subscriber::registry()
        .with(spans)
        .with(lines)
        .try_init()
        .map_err(|_| TraceError::Twice)?;
    panics::into_log();
    if settings.capture_content {
        tracing::warn!("telemetry.capture_content is on: questions and answers are exported");
    }
    Ok((guard, logging))
}

/// The layer that exports Stent's spans to the collector that `settings` name, if any.
pub fn exporting<S>(
    settings: &Settings,
) -> Result<(Box<dyn Layer<S> + Send + Sync>, Guard), TraceError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    if settings.otlp.is_empty() {
        return Ok(layer(settings, None::<opentelemetry_otlp::SpanExporter>));
    }
    let transport = otlp::connect(settings)?;
    let (layer, mut guard) = layer(settings, Some(transport.exporter));
    guard.runtime = transport.runtime;
    Ok((layer, guard))
}

/// The layer that turns Stent's spans into exported ones, over any exporter: tests pass an
/// in-memory one and call [`Guard::flush`].
pub fn layer<S, E>(
    settings: &Settings,
    exporter: Option<E>,
) -> (Box<dyn Layer<S> + Send + Sync>, Guard)
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    E: SpanExporter + 'static,
{
    let counts = Arc::new(Counts::default());
    let ring = Arc::default();
    let provider = export::provider(settings, exporter, &counts, &ring);
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("stent"))
        // All of these are known from a span's name.
        .with_level(false)
        .with_target(false)
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(stent_spans());
    let guard = Guard {
        provider: Some(provider),
        counts,
        ring,
        runtime: None,
    };
    (Box::new(layer), guard)
}

fn stent_spans() -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    filter_fn(|meta: &Metadata<'_>| meta.is_span() && meta.target().starts_with("stent"))
        .with_max_level_hint(Level::INFO)
}

/// Keeps the export running. Close it last, after the server has drained.
#[derive(Debug)]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
    counts: Arc<Counts>,
    ring: Arc<Ring>,
    runtime: Option<Runtime>,
}

impl Guard {
    /// For the metrics.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// The last requests, for the console.
    pub fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring)
    }

    /// Sends what has ended so far; for tests. Waits up to 5 s.
    pub fn flush(&self) {
        if let Some(provider) = &self.provider {
            // What could not be sent is counted as dropped.
            let _ = provider.force_flush();
        }
    }

    /// Sends the last spans, for 3 s at most. Blocks: never call it on a thread of the
    /// server's runtime, use [`Guard::shutdown`] there.
    pub fn close(mut self) {
        self.finish();
    }

    /// As [`Guard::close`], without blocking the caller's thread.
    pub async fn shutdown(self) {
        // It fails only when the runtime itself is going away: then nobody waits for spans.
        let _ = tokio::task::spawn_blocking(move || self.close()).await;
    }

    fn finish(&mut self) {
        let Some(provider) = self.provider.take() else {
            return;
        };
        // A timeout loses spans, which are counted.
        let _ = provider.shutdown_with_timeout(DRAIN);
        self.counts.close();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.finish();
    }
}
