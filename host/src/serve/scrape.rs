//! What a scrape of the metrics reads, stage by stage.

use std::sync::Arc;

use stent::chat::Gateway;
use stent::redis::Redis;
use stent::starts::Starts;
use stent::{http, metrics, trace};

/// Has the gauges read whenever somebody looks.
pub fn read(
    gateway: &Arc<Gateway>,
    tracing: &trace::Guard,
    starts: Arc<Starts>,
    rooms: [Arc<http::Room>; 2],
) {
    let (counts, weak) = (tracing.counts(), Arc::downgrade(gateway));
    gateway.metrics.on_scrape(move |readings| {
        let Some(gateway) = weak.upgrade() else {
            return;
        };
        let status = gateway.engine.status();
        readings.queue_depth = Some(status.queued);
        for state in ["idle", "prefill", "decode"] {
            let slots = status
                .slots
                .iter()
                .filter(|slot| slot.state == state)
                .count();
            readings.slots.push((state, slots));
        }
        readings.kv_cells_used = Some(status.kv_cells_used);
        readings.kv_cells = Some(status.kv_cells);
        readings.sessions = gateway
            .sessions
            .count()
            .and_then(|n| usize::try_from(n).ok());
        readings.cache_entries = Some(gateway.cache.entries());
        readings.cache_bytes = Some(gateway.cache.bytes());
        readings.policy_generation = Some(gateway.policies.generation());
        readings.policy_generations_live = Some(gateway.policies.live_generations());
        readings.policy_alarms = Some(gateway.policies.alarms().len());
        readings.restarts = Some(starts.restarts().day);
        readings.connections = Some(rooms.iter().map(|room| room.open()).sum());
        readings.connections_refused = Some(rooms.iter().map(|room| room.refused()).sum());
        let sessions = gateway.sessions.server().map(|redis| ("sessions", redis));
        let cache = gateway.cache.shared().map(|(redis, _)| ("cache", redis));
        readings.servers = sessions.into_iter().chain(cache).map(server).collect();
        readings.spans_ended = Some(counts.ended());
        readings.spans_dropped = Some(counts.dropped());
    });
}

/// A server that hosts share, as the metrics tell of it.
fn server((store, redis): (&'static str, &Redis)) -> metrics::Server {
    let counts = redis.counts();
    metrics::Server {
        store,
        up: redis.is_healthy(),
        uses: counts.uses,
        seconds: counts.waited.as_secs_f64(),
        failures: counts.failures,
        skipped: counts.skipped,
    }
}
