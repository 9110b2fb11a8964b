//! The upstreams together: which of them gets the next request.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use moka::sync::Cache;
use reqwest::Client;

use super::server::{Trip, Upstream};
use crate::engine::UpstreamStatus;
use crate::engine::settings::Settings;
use crate::types::SessionKey;

/// Sessions whose upstream is remembered.
const MOST_SESSIONS: u64 = 100_000;

pub struct Fleet {
    client: Client,
    upstreams: Vec<Arc<Upstream>>,
    /// Where a session's last answer came from: its prompt is in that server's cache.
    last: Cache<SessionKey, usize>,
}

impl Fleet {
    pub fn new(settings: &Settings) -> Result<Self, String> {
        crate::tls::install();
        let own = &settings.upstream;
        let client = Client::builder()
            .connect_timeout(own.connect_timeout)
            // A redirect would carry the key elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("stent/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("engine.upstreams: no HTTP client: {error}"))?;
        Ok(Self {
            client,
            upstreams: settings
                .upstreams
                .iter()
                .map(|target| Upstream::new(target, own).map(Arc::new))
                .collect::<Result<_, String>>()?,
            last: Cache::builder()
                .max_capacity(MOST_SESSIONS)
                .time_to_idle(own.affinity)
                .build(),
        })
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// One round of health checks, all at once.
    pub async fn check_all(&self) {
        let checks = self.upstreams.iter().map(|u| u.check(&self.client));
        futures::future::join_all(checks).await;
    }

    /// The model of the first upstream that tells one.
    pub fn model(&self) -> Option<String> {
        self.upstreams.iter().find_map(|u| u.model())
    }

    /// The upstream for the next attempt, which is none of `tried`.
    pub fn choose(&self, session: Option<&SessionKey>, tried: &[usize]) -> Option<Trip> {
        let now = Instant::now();
        let open = |index: &usize| {
            let upstream = &self.upstreams[*index];
            !tried.contains(index) && upstream.can_be_used(now)
        };
        let at_home = session.and_then(|s| self.last.get(s)).filter(|i| open(i));
        let index = at_home.or_else(|| {
            let load = |&index: &usize| {
                let upstream = &self.upstreams[index];
                // Equals take turns.
                (upstream.load(), upstream.requests.load(Relaxed))
            };
            (0..self.upstreams.len()).filter(open).min_by_key(load)
        })?;
        Some(Trip::begin(index, &self.upstreams[index]))
    }

    /// The session's answer comes from there.
    pub fn remember(&self, session: &SessionKey, index: usize) {
        self.last.insert(session.clone(), index);
    }

    pub fn forget(&self, session: &SessionKey) {
        self.last.invalidate(session);
    }

    pub fn status(&self) -> Vec<UpstreamStatus> {
        self.upstreams.iter().map(|u| u.status()).collect()
    }

    pub fn read_tokens(&self) -> u64 {
        self.upstreams.iter().map(|u| u.read.load(Relaxed)).sum()
    }

    pub fn written_tokens(&self) -> u64 {
        self.upstreams.iter().map(|u| u.written.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::upstream::settings::Target;
    use crate::types::{SessionId, TenantId};

    fn fleet(weights: &[u32]) -> Fleet {
        let settings = Settings {
            upstreams: weights
                .iter()
                .map(|&weight| Target {
                    url: format!("http://127.0.0.1:{weight}/v1"),
                    key: None,
                    key_file: None,
                    weight,
                })
                .collect(),
            ..Settings::default()
        };
        let fleet = Fleet::new(&settings).unwrap();
        for upstream in &fleet.upstreams {
            upstream.reach(true);
        }
        fleet
    }

    fn session(name: &str) -> SessionKey {
        SessionKey {
            tenant: TenantId::default(),
            session: SessionId::parse(name).unwrap(),
        }
    }

    #[test]
    fn the_least_busy_by_weight_is_chosen() {
        let fleet = fleet(&[1, 2]);
        let trips: Vec<_> = (0..6).filter_map(|_| fleet.choose(None, &[])).collect();
        let to = |index| trips.iter().filter(|trip| trip.index == index).count();
        assert_eq!((to(0), to(1)), (2, 4));
        drop(trips);
        assert!(fleet.status().iter().all(|u| u.outstanding == 0));
    }

    #[test]
    fn a_session_goes_home_unless_home_cannot_be_used() {
        let fleet = fleet(&[1, 1]);
        fleet.remember(&session("s"), 1);
        let _busy: Vec<_> = (0..4)
            .map(|_| fleet.choose(Some(&session("s")), &[]))
            .collect();
        assert_eq!(fleet.status()[1].outstanding, 4);
        assert_eq!(fleet.choose(Some(&session("s")), &[1]).unwrap().index, 0);
        fleet.upstreams[1].reach(false);
        assert_eq!(fleet.choose(Some(&session("s")), &[]).unwrap().index, 0);
        assert!(fleet.choose(None, &[0]).is_none());
    }

    #[test]
    fn an_open_circuit_gets_nothing() {
        let fleet = fleet(&[1]);
        for _ in 0..3 {
            fleet.choose(None, &[]).unwrap().failed("it broke");
        }
        assert!(fleet.choose(None, &[]).is_none());
        let status = &fleet.status()[0];
        assert_eq!((status.circuit, status.healthy), ("open", false));
    }
}
