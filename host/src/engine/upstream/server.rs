//! One upstream: whether it can be used, what it is doing, and the requests on their way to it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::circuit::Circuit;
use super::settings::{Secret, Settings, Target, shown};
use crate::engine::UpstreamStatus;

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
    /// # Errors
    /// When the file with its key cannot be read.
    pub fn new(target: &Target, own: &Settings) -> Result<Self, String> {
        Ok(Self {
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
        })
    }

    pub fn can_be_used(&self, now: Instant) -> bool {
        self.reachable.load(Relaxed) && self.circuit().allows(now)
    }

    /// What it would have to do with one request more, by weight, in millionths of a request.
    pub fn load(&self) -> u64 {
        let busy = u64::from(self.outstanding.load(Relaxed)) + 1;
        busy * 1_000_000 / u64::from(self.weight)
    }

    #[cfg(test)]
    pub fn reach(&self, reachable: bool) {
        self.reachable.store(reachable, Relaxed);
    }

    /// The request with the upstream's key.
    pub fn authorised(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key.reveal()),
            None => request,
        }
    }

    /// Asks for the models, which every server of this kind lists.
    ///
    /// # Errors
    /// What is wrong, in a few words.
    pub async fn models(&self, client: &Client) -> Result<Vec<String>, String> {
        let request = client
            .get(format!("{}/models", self.url))
            .timeout(self.health_timeout);
        let response = self.authorised(request).send().await;
        let response = response.map_err(|error| plain(&error))?;
        if !response.status().is_success() {
            return Err(format!("/models answers {}", response.status().as_u16()));
        }
        // A server that lists none in this form may answer all the same.
        let models = response.json::<Models>().await.ok();
        let models = models.map_or_else(Vec::new, |models| models.data);
        Ok(models.into_iter().map(|model| model.id).collect())
    }

    /// One health check.
    pub async fn check(&self, client: &Client) {
        match self.models(client).await {
            Ok(models) => {
                if !self.reachable.swap(true, Relaxed) {
                    tracing::info!(upstream = shown(&self.url), "this upstream can be used");
                }
                *locked(&self.problem) = None;
                *locked(&self.model) = models.into_iter().next();
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

    pub fn status(&self) -> UpstreamStatus {
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
    pub fn begin(index: usize, upstream: &Arc<Upstream>) -> Self {
        upstream.circuit().begin();
        upstream.outstanding.fetch_add(1, Relaxed);
        upstream.requests.fetch_add(1, Relaxed);
        Self {
            index,
            upstream: Arc::clone(upstream),
            decided: false,
        }
    }

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
