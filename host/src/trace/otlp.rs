//! The two OTLP transports.

use std::time::Duration;

use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use tokio::runtime::Runtime;

use super::{Protocol, Settings, TraceError};

/// One batch's time at the collector; a slower one counts as lost.
const TIMEOUT: Duration = Duration::from_secs(3);

/// An exporter, and the runtime that its connection lives on.
pub(super) struct Transport {
    pub(super) exporter: SpanExporter,
    pub(super) runtime: Option<Runtime>,
}

/// Connects when the first batch is sent: a collector may start after Stent.
pub(super) fn connect(settings: &Settings) -> Result<Transport, TraceError> {
    match settings.protocol {
        Protocol::Grpc => grpc(settings),
        Protocol::Http => http(settings),
    }
}

/// tonic runs its connection on the runtime it was made on. It gets one thread of its own, so
/// that exports go on while the server's runtime drains.
fn grpc(settings: &Settings) -> Result<Transport, TraceError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("stent-otlp")
        .enable_all()
        .build()
        .map_err(TraceError::Thread)?;
    let entered = runtime.enter();
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&settings.otlp)
        .with_timeout(TIMEOUT)
        .build()
        .map_err(|source| TraceError::exporter(settings, source));
    drop(entered);
    Ok(Transport {
        exporter: exporter?,
        runtime: Some(runtime),
    })
}

/// The export thread has no async runtime, so the client must be a blocking one; it is passed
/// explicitly, since a dependency that enables the asynchronous client would change the default
/// and every export would panic.
fn http(settings: &Settings) -> Result<Transport, TraceError> {
    crate::tls::install();
    // Building a blocking client on a thread of an async runtime panics.
    let client = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                reqwest::blocking::Client::builder()
                    .timeout(TIMEOUT)
                    .build()
            })
            .join()
            .map_err(|_| TraceError::Client("its construction panicked".to_owned()))
    })?
    .map_err(|error| TraceError::Client(error.to_string()))?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(traces_url(&settings.otlp))
        .with_timeout(TIMEOUT)
        .build()
        .map_err(|source| TraceError::exporter(settings, source))?;
    Ok(Transport {
        exporter,
        runtime: None,
    })
}

/// `http://host:4318` stands for its `/v1/traces`; an address with a path is taken as it is.
fn traces_url(endpoint: &str) -> String {
    let base = endpoint.trim_end_matches('/');
    let path = base
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('/'));
    match path {
        Some(_) => base.to_owned(),
        None => format!("{base}/v1/traces"),
    }
}

#[cfg(test)]
mod tests {
    use super::traces_url;

    #[test]
    fn a_bare_address_gets_the_traces_path() {
        assert_eq!(traces_url("http://c:4318"), "http://c:4318/v1/traces");
        assert_eq!(traces_url("http://c:4318/"), "http://c:4318/v1/traces");
        assert_eq!(
            traces_url("http://c/otel/v1/traces"),
            "http://c/otel/v1/traces"
        );
    }
}
