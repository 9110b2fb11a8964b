//! Where lines go and which are written: standard error or a file, and a filter that can be
//! exchanged while the process runs.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, reload};

use super::{LOG_VARIABLE, LogFormat, LogSettings, TraceError, log};

type Exchange = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

/// What of the log can be changed while it is written. Cheap to clone.
#[derive(Clone)]
pub struct Logging(Arc<Inner>);

struct Inner {
    exchange: Box<Exchange>,
    /// What the configuration says, and what is in force.
    configured: ArcSwap<String>,
    current: ArcSwap<String>,
    file: Option<LogFile>,
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logging({:?})", self.current())
    }
}

impl Logging {
    /// The filter that is in force.
    pub fn current(&self) -> String {
        self.0.current.load().to_string()
    }

    /// The one that a start puts in force.
    pub fn configured(&self) -> String {
        self.0.configured.load().to_string()
    }

    /// The configuration has another filter, which takes the place of whatever is in force.
    ///
    /// # Errors
    /// [`TraceError::Overruled`] where `STENT_LOG` is set, and as [`Logging::set`].
    pub fn configure(&self, filter: &str) -> Result<(), TraceError> {
        if variable().is_some() {
            return Err(TraceError::Overruled);
        }
        self.set(filter)?;
        self.0.configured.store(Arc::new(filter.to_owned()));
        Ok(())
    }

    /// Puts another filter in force, until the process ends.
    ///
    /// # Errors
    /// [`TraceError::Filter`] for a text that is no filter: nothing changes then.
    pub fn set(&self, filter: &str) -> Result<(), TraceError> {
        let parsed = parse("filter", filter)?;
        // It fails only after the subscriber is gone, and with it every line.
        if (self.0.exchange)(parsed).is_ok() {
            self.0.current.store(Arc::new(filter.to_owned()));
        }
        Ok(())
    }

    /// Opens the log's file again, for whoever has moved it away. Without a file it does nothing.
    ///
    /// # Errors
    /// When the file cannot be opened: lines go on into the one that is open.
    pub fn reopen(&self) -> Result<(), TraceError> {
        self.0.file.as_ref().map_or(Ok(()), LogFile::reopen)
    }
}

/// The layer that writes lines, and its handle.
pub(super) fn lines<S>(
    settings: &LogSettings,
) -> Result<(Box<dyn Layer<S> + Send + Sync>, Logging), TraceError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let (filter, configured) = configured(settings)?;
    let file = match settings.file.as_os_str().is_empty() {
        true => None,
        false => Some(LogFile::open(&settings.file)?),
    };
    let terminal = file.is_none() && io::stderr().is_terminal();
    let writer = match file.clone() {
        Some(file) => BoxMakeWriter::new(move || file.current()),
        None => BoxMakeWriter::new(io::stderr),
    };
    let (filter, handle) = reload::Layer::new(filter);
    // Spans are not printed; leaving them out here saves formatting their fields.
    let events = filter.and(filter_fn(|meta: &Metadata<'_>| meta.is_event()));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(terminal);
    let human = match settings.format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let layer = match human {
        true => lines.compact().with_filter(events).boxed(),
        false => lines.event_format(log::Json).with_filter(events).boxed(),
    };
    let logging = Logging(Arc::new(Inner {
        exchange: Box::new(move |filter| handle.reload(filter)),
        current: ArcSwap::from_pointee(configured.clone()),
        configured: ArcSwap::from_pointee(configured),
        file,
    }));
    Ok((layer, logging))
}

/// The filter of the configuration, or of the variable that takes its place.
pub(super) fn configured(settings: &LogSettings) -> Result<(EnvFilter, String), TraceError> {
    let (origin, found) = match variable() {
        Some(value) => (LOG_VARIABLE, value),
        None => ("log.filter", settings.filter.clone()),
    };
    Ok((parse(origin, &found)?, found))
}

fn variable() -> Option<String> {
    let value = std::env::var(LOG_VARIABLE).ok();
    value.filter(|value| !value.is_empty())
}

fn parse(origin: &'static str, found: &str) -> Result<EnvFilter, TraceError> {
    // The SDK writes a line for each lost batch; the exporter's gate says it once.
    let quiet = ["opentelemetry", "opentelemetry_sdk", "opentelemetry_otlp"];
    let quiet = quiet.map(|target| format!("{target}=off")).join(",");
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(format!("{quiet},{found}"))
        .map_err(|source| TraceError::Filter {
            origin,
            found: found.to_owned(),
            source,
        })
}

/// A file that can be opened again under its name, while lines are written.
#[derive(Clone)]
struct LogFile {
    path: PathBuf,
    file: Arc<ArcSwap<File>>,
}

impl LogFile {
    fn open(path: &Path) -> Result<Self, TraceError> {
        let file = Arc::new(ArcSwap::from_pointee(append(path)?));
        let path = path.to_owned();
        Ok(Self { path, file })
    }

    fn reopen(&self) -> Result<(), TraceError> {
        self.file.store(Arc::new(append(&self.path)?));
        Ok(())
    }

    fn current(&self) -> Arc<File> {
        self.file.load_full()
    }
}

/// Lines are appended: a rotated file never has a hole, and two processes do not overwrite each other.
fn append(path: &Path) -> Result<File, TraceError> {
    let opened = File::options().create(true).append(true).open(path);
    opened.map_err(|source| TraceError::LogFile {
        path: path.to_owned(),
        source,
    })
}
