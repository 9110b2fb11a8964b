//! How events are printed: for a person on a terminal, as JSON lines for everything else.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// One JSON object a line: timestamp, level, target, the event's fields, and the ids of the trace
/// and span it happened in.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), time.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("target".to_owned(), event.metadata().target().into());
        event.record(&mut Fields(&mut line));
        add_ids(&mut line, event);
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// An event that names its trace itself, as an access line does, keeps it.
fn add_ids(line: &mut Map<String, Value>, event: &Event<'_>) {
    let context = match event.parent() {
        Some(id) => tracing::dispatcher::get_default(|dispatch| {
            tracing_opentelemetry::get_otel_context(id, dispatch)
        }),
        None => Some(Context::current()),
    };
    let Some(context) = context else { return };
    let span = context.span().span_context().clone();
    if !span.is_valid() {
        return;
    }
    let trace = span.trace_id().to_string();
    if *line
        .entry("trace_id")
        .or_insert_with(|| trace.clone().into())
        == trace
    {
        line.insert("span_id".to_owned(), span.span_id().to_string().into());
    }
}

/// Keeps numbers and truth values what they are; everything else becomes text.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn insert(&mut self, field: &Field, value: Value) {
        // What comes through the `log` crate names its target in a field, and source files in others.
        let name = match field.name() {
            "log.target" => "target",
            name if name.starts_with("log.") => return,
            name => name,
        };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::super::{Settings, exporting, spans, trace_id};
    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_names_the_trace_it_was_written_in() {
        let lines = Lines::default();
        let (otel, _guard) = exporting(&Settings::default()).unwrap();
        let writer = lines.clone();
        let json = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .event_format(Json);
        let trace = tracing::subscriber::with_default(
            tracing_subscriber::registry().with(otel).with(json),
            || {
                tracing::info!(port = 8000_u32, "outside");
                let span = spans::server("GET", "/health", None);
                span.in_scope(|| tracing::warn!(ttft = 0.5, ok = true, "inside"));
                tracing::info!(trace_id = "given", "names its own");
                trace_id(&span).unwrap()
            },
        );
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let parsed: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(parsed[0]["message"], "outside");
        assert_eq!(parsed[0]["port"], 8000);
        assert_eq!(parsed[0].get("trace_id"), None);
        assert_eq!(parsed[1]["level"], "WARN");
        assert_eq!(parsed[1]["ttft"], 0.5);
        assert_eq!(parsed[1]["ok"], true);
        assert_eq!(parsed[1]["trace_id"], trace.as_str());
        assert_eq!(parsed[1]["span_id"].as_str().unwrap().len(), 16);
        assert_eq!(parsed[2]["trace_id"], "given");
    }
}
