//! Values that are not counted along the way but read when Prometheus asks.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::process::Process;
use super::servers::Server;

/// One scrape's values; each stage fills in its own through [`super::Metrics::on_scrape`].
/// `None` is left out of the exposition: no reader knows it.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Readings {
    /// Jobs that wait for a slot.
    pub queue_depth: Option<usize>,
    /// How many slots are in each state (`idle`, `prefill`, `decode`).
    pub slots: Vec<(&'static str, usize)>,
    pub kv_cells_used: Option<u32>,
    pub kv_cells: Option<u32>,
    pub sessions: Option<usize>,
    pub cache_entries: Option<u64>,
    pub cache_bytes: Option<u64>,
    /// The generation that new requests get.
    pub policy_generation: Option<u64>,
    /// Generations that are still held, by running requests too.
    pub policy_generations_live: Option<usize>,
    /// Standing troubles of the policies.
    pub policy_alarms: Option<usize>,
    /// Starts of the last 24 hours that followed another.
    pub restarts: Option<usize>,
    /// The servers that hosts share, by what they are used for.
    pub servers: Vec<Server>,
    /// Open connections of both addresses, and those for which there was no room.
    pub connections: Option<usize>,
    pub connections_refused: Option<u64>,
    /// Spans that ended, and those of them that never reached the collector.
    pub spans_ended: Option<u64>,
    pub spans_dropped: Option<u64>,
}

type Reader = Box<dyn Fn(&mut Readings) + Send + Sync>;

/// The collector behind the registry: runs all readers and writes what they found.
#[derive(Default)]
pub(super) struct Readers(RwLock<Vec<Reader>>);

impl Readers {
    pub(super) fn add(&self, reader: Reader) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(reader);
    }

    pub(super) fn read(&self) -> Readings {
        let mut readings = Readings::default();
        for reader in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            reader(&mut readings);
        }
        readings
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readers")
    }
}

impl Collector for Readers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        self.read().encode(&mut out)?;
        Process::read().encode(&mut out)
    }
}

impl Readings {
    fn encode(&self, out: &mut Writer<'_>) -> fmt::Result {
        out.gauge(
            "stent_queue_depth",
            "Jobs that wait for a slot",
            self.queue_depth.map(int),
        )?;
        out.by_state("stent_slots", "Slots by what they do", &self.slots)?;
        out.gauge(
            "stent_kv_cells_used",
            "KV cells in use",
            self.kv_cells_used.map(int),
        )?;
        out.gauge(
            "stent_kv_cells",
            "KV cells of the context",
            self.kv_cells.map(int),
        )?;
        out.gauge(
            "stent_sessions",
            "Sessions in the store",
            self.sessions.map(int),
        )?;
        out.gauge(
            "stent_cache_entries",
            "Cached answers",
            self.cache_entries.map(int),
        )?;
        out.bytes(
            "stent_cache_size",
            "Size of the cached answers",
            self.cache_bytes.map(int),
        )?;
        out.gauge(
            "stent_policy_generation",
            "Policy generation that new requests get",
            self.policy_generation.map(int),
        )?;
        out.gauge(
            "stent_policy_generations_live",
            "Policy generations that are held, also by running requests",
            self.policy_generations_live.map(int),
        )?;
        out.gauge(
            "stent_policy_alarms",
            "Standing troubles of the policies (GET /admin/alarms says which)",
            self.policy_alarms.map(int),
        )?;
        out.gauge(
            "stent_restarts",
            "Restarts within the last 24 hours",
            self.restarts.map(int),
        )?;
        out.gauge(
            "stent_connections",
            "Open connections of both addresses",
            self.connections.map(int),
        )?;
        out.counter(
            "stent_connections_refused",
            "Connections beyond server.max_connections",
            None,
            self.connections_refused,
        )?;
        Server::encode(&self.servers, out)?;
        out.counter(
            "stent_spans_ended",
            "Spans that ended",
            None,
            self.spans_ended,
        )?;
        out.counter(
            "stent_spans_dropped",
            "Spans that were lost: queue full or collector unreachable",
            None,
            self.spans_dropped,
        )
    }
}

impl Process {
    fn encode(&self, out: &mut Writer<'_>) -> fmt::Result {
        out.bytes(
            "stent_memory_resident",
            "Resident memory (VmRSS)",
            self.resident,
        )?;
        out.bytes("stent_memory_locked", "Locked memory (VmLck)", self.locked)?;
        out.counter(
            "stent_cpu",
            "User and system time",
            Some(&Unit::Seconds),
            self.cpu,
        )?;
        out.gauge(
            "stent_cpus",
            "CPUs that the process may use",
            self.cpus.map(int),
        )?;
        if let Some(started) = self.started {
            let gauge = ConstGauge::new(started);
            let unit = Some(&Unit::Seconds);
            let help = "Start of the process, since 1970";
            let encoder = out.0.encode_descriptor(
                "stent_process_start_time",
                help,
                unit,
                MetricType::Gauge,
            )?;
            gauge.encode(encoder)?;
        }
        Ok(())
    }
}

pub(super) struct Writer<'a>(pub(super) DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: Option<i64>) -> fmt::Result {
        self.write(name, help, None, value)
    }

    fn bytes(&mut self, name: &str, help: &str, value: Option<i64>) -> fmt::Result {
        self.write(name, help, Some(&Unit::Bytes), value)
    }

    fn write(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: Option<i64>,
    ) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        let encoder = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn counter<N>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: Option<N>,
    ) -> fmt::Result
    where
        ConstCounter<N>: EncodeMetric,
    {
        let Some(value) = value else { return Ok(()) };
        let encoder = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    fn by_state(
        &mut self,
        name: &str,
        help: &str,
        values: &[(&'static str, usize)],
    ) -> fmt::Result {
        if values.is_empty() {
            return Ok(());
        }
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (state, count) in values {
            let gauge = ConstGauge::new(int(*count));
            gauge.encode(family.encode_family(&[("state", *state)])?)?;
        }
        Ok(())
    }
}

fn int(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}
