//! The Redis servers that hosts share, as a scrape tells of them.

use std::fmt;

use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::readings::Writer;

/// A way to a server; two of them may lead to the same one.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Server {
    /// What lies there: `sessions` or `cache`.
    pub store: &'static str,
    /// It is used; false from its third failure in a row until it answers again.
    pub up: bool,
    /// Uses that were tried, and the seconds that all of them took.
    pub uses: u64,
    pub seconds: f64,
    /// Uses and probes that failed.
    pub failures: u64,
    /// Uses that were not tried while it was down.
    pub skipped: u64,
}

impl Server {
    pub(super) fn encode(all: &[Self], out: &mut Writer<'_>) -> fmt::Result {
        let count = ConstCounter::<u64>::new;
        let gauge = |up: bool| ConstGauge::new(i64::from(up));
        family(
            all,
            out,
            ("stent_redis_up", "Whether Redis is used", None),
            MetricType::Gauge,
            |server| gauge(server.up),
        )?;
        family(
            all,
            out,
            ("stent_redis_uses", "Uses of Redis that were tried", None),
            MetricType::Counter,
            |server| count(server.uses),
        )?;
        family(
            all,
            out,
            (
                "stent_redis_wait",
                "Time that uses of Redis took",
                Some(&Unit::Seconds),
            ),
            MetricType::Counter,
            |server| ConstCounter::new(server.seconds),
        )?;
        family(
            all,
            out,
            (
                "stent_redis_failures",
                "Uses of Redis that failed, and failed probes",
                None,
            ),
            MetricType::Counter,
            |server| count(server.failures),
        )?;
        family(
            all,
            out,
            (
                "stent_redis_skipped",
                "Uses of Redis that were not tried while it was down",
                None,
            ),
            MetricType::Counter,
            |server| count(server.skipped),
        )
    }
}

/// One metric of all servers; none where there is no server.
fn family<M: EncodeMetric>(
    all: &[Server],
    out: &mut Writer<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    of: MetricType,
    value: impl Fn(&Server) -> M,
) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    let mut family = out.0.encode_descriptor(name, help, unit, of)?;
    for server in all {
        let labels = [("store", server.store)];
        value(server).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
