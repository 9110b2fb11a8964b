//! The upstreams: which of them can be used, what each is doing, and who gets the next request.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::circuit::Circuit;
use super::settings::{Secret, Target, shown};
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

/// One server.
pub struct Upstream {
    pub url: String,
    key: Option<Secret>,
    weight: u32,
    health_timeout: Duration,
    circuit: Mutex<Circuit>,
    reachable: AtomicBool,
    /// What the last health check or request found wrong.
    problem: Mutex<Option<String>>,
    /// The first model that it lists.
    model: Mutex<Option<String>>,
    outstanding: AtomicU32,
    pub requests: AtomicU64,
    pub failures: AtomicU64,
    pub read: AtomicU64,
    pub written: AtomicU64,
}

/// A request on its way to an upstream; counted until dropped.
pub struct Trip {
    pub index: usize,
    pub upstream: Arc<Upstream>,
    decided: bool,
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
        let upstream = |target: &Target| {
            Ok(Arc::new(Upstream {
                url: target.url.clone(),
                key: key(target)?,
                weight: target.weight,
                health_timeout: own.connect_timeout + Duration::from_secs(1),
                circuit: Mutex::new(Circuit::new(own.failures, own.cooldown)),
                reachable: AtomicBool::new(false),
                problem: Mutex::new(Some("not asked yet".into())),
                model: Mutex::new(None),
                outstanding: AtomicU32::new(0),
                requests: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                read: AtomicU64::new(0),
                written: AtomicU64::new(0),
            }))
        };
        Ok(Self {
            client,
            upstreams: settings
                .upstreams
                .iter()
                .map(upstream)
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
            !tried.contains(index)
                && upstream.reachable.load(Relaxed)
                && upstream.circuit().allows(now)
        };
        let at_home = session.and_then(|s| self.last.get(s)).filter(|i| open(i));
        let index = at_home.or_else(|| {
            let load = |&index: &usize| {
                let upstream = &self.upstreams[index];
                // Outstanding requests by weight, as a fraction of whole numbers.
                let busy = u64::from(upstream.outstanding.load(Relaxed)) + 1;
                let by_weight = busy * 1_000_000 / u64::from(upstream.weight);
                // Equals take turns.
                (by_weight, upstream.requests.load(Relaxed))
            };
            (0..self.upstreams.len()).filter(open).min_by_key(load)
        })?;
        let upstream = Arc::clone(&self.upstreams[index]);
        upstream.circuit().begin();
        upstream.outstanding.fetch_add(1, Relaxed);
        upstream.requests.fetch_add(1, Relaxed);
        Some(Trip {
            index,
            upstream,
            decided: false,
        })
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

/// The key of the configuration, or of the file that it names.
fn key(target: &Target) -> Result<Option<Secret>, String> {
    let Some(file) = &target.key_file else {
        return Ok(target.key.clone());
    };
    let text = std::fs::read_to_string(file).map_err(|error| {
        format!(
            "engine.upstreams: key_file {}: {error}, expected a file with the key",
            file.display()
        )
    })?;
    Ok(Some(Secret::new(text.trim())))
}

#[derive(Deserialize)]
struct Models {
    data: Vec<ModelEntry>,
}

#[derive(Deserialize)]
struct ModelEntry {
    id: String,
}

/// Checks an upstream again and again, until `stop`.
pub async fn watch(
    upstream: Arc<Upstream>,
    client: Client,
    every: Duration,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        upstream.check(&client).await;
    }
}

impl Upstream {
    /// The request with the upstream's key.
    pub fn authorised(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key.reveal()),
            None => request,
        }
    }

    /// Asks for the models, which every server of this kind lists.
    async fn check(&self, client: &Client) {
        let request = client
            .get(format!("{}/models", self.url))
            .timeout(self.health_timeout);
        let found = match self.authorised(request).send().await {
            Err(error) => Err(plain(&error)),
            Ok(response) if !response.status().is_success() => {
                Err(format!("/models answers {}", response.status().as_u16()))
            }
            Ok(response) => Ok(response.json::<Models>().await.ok()),
        };
        match found {
            Ok(models) => {
                if !self.reachable.swap(true, Relaxed) {
                    tracing::info!(upstream = shown(&self.url), "this upstream can be used");
                }
                *locked(&self.problem) = None;
                let first = models.and_then(|models| models.data.into_iter().next());
                *locked(&self.model) = first.map(|model| model.id);
            }
            Err(problem) => {
                let again = locked(&self.problem).as_deref() == Some(&*problem);
                if self.reachable.swap(false, Relaxed) || !again {
                    tracing::warn!(
                        upstream = shown(&self.url),
                        problem,
                        "this upstream cannot be used"
                    );
                }
                *locked(&self.problem) = Some(problem);
            }
        }
    }

    pub fn model(&self) -> Option<String> {
        locked(&self.model).clone()
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        locked(&self.circuit)
    }

    fn status(&self) -> UpstreamStatus {
        let circuit = self.circuit();
        let reachable = self.reachable.load(Relaxed);
        UpstreamStatus {
            url: shown(&self.url),
            healthy: reachable && circuit.allows(Instant::now()),
            circuit: circuit.name(),
            problem: locked(&self.problem).clone(),
            outstanding: self.outstanding.load(Relaxed),
            requests: self.requests.load(Relaxed),
            failures: self.failures.load(Relaxed),
        }
    }
}

impl Trip {
    /// A word came.
    pub fn succeeded(&mut self) {
        self.decided = true;
        self.upstream.circuit().succeeded();
    }

    /// The upstream is to blame. Its own words may repeat what somebody asked: they stand behind a
    /// colon and are not logged.
    pub fn failed(&mut self, problem: &str) {
        self.decided = true;
        let problem = problem.split(": ").next().unwrap_or_default();
        let upstream = &self.upstream;
        upstream.failures.fetch_add(1, Relaxed);
        let mut circuit = upstream.circuit();
        let before = circuit.name();
        circuit.failed(Instant::now());
        let opened = before != "open" && circuit.name() == "open";
        tracing::warn!(
            upstream = shown(&upstream.url),
            problem,
            opened,
            "a request to an upstream failed"
        );
    }

    pub fn name(&self) -> String {
        shown(&self.upstream.url)
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        self.upstream.outstanding.fetch_sub(1, Relaxed);
        if !self.decided {
            self.upstream.circuit().undecided(Instant::now());
        }
    }
}

/// The innermost cause: reqwest's own words repeat the address, which may be long.
pub fn plain(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// A poisoned lock is taken all the same: every change under it is a single assignment.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
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
            upstream.reachable.store(true, Relaxed);
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
        fleet.upstreams[1].reachable.store(false, Relaxed);
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

    #[test]
    fn a_mounted_key_is_read_and_a_missing_one_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret\n").unwrap();
        let target = |path: &std::path::Path| Target {
            url: "http://a/v1".into(),
            key: None,
            key_file: Some(path.to_owned()),
            weight: 1,
        };
        assert_eq!(
            key(&target(file.path())).unwrap().unwrap().reveal(),
            "s3cret"
        );
        let missing = key(&target(std::path::Path::new("/nowhere/key")));
        assert!(missing.unwrap_err().contains("/nowhere/key"));
    }
}
