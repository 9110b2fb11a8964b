//! Another configuration while serving: what can change does, what cannot is named.

mod keys;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use stent::api::{self, App};
use stent::chat::Live;
use stent::config::Config;
use stent::engine::Target;
use stent::http;

use keys::{differing, flat, hook, is_access, is_live, take_over};

/// How often the file is looked at. Its time and size are asked for, because files that are mounted
/// (ConfigMaps, NFS) raise no events.
const EVERY: Duration = Duration::from_secs(1);

/// Where the configuration comes from.
pub struct Source {
    pub file: Option<PathBuf>,
    /// As it was before it was read: what changes while the model loads is a change.
    pub seen: Option<Stamp>,
    pub load: Box<dyn Fn() -> anyhow::Result<(Config, Vec<String>)> + Send + Sync>,
}

/// Time and size of a file.
pub type Stamp = (SystemTime, u64);

/// What is reached by a reload.
pub struct Reach {
    pub app: Arc<App>,
    pub pages: http::Pages,
    /// Where the admin routes are served, whatever the configuration says by now.
    pub admin: SocketAddr,
    pub max_rss: Arc<AtomicU64>,
    pub drain_ms: Arc<AtomicU64>,
}

pub struct Reloader {
    source: Source,
    reach: Reach,
    /// What is in force, key by key.
    current: BTreeMap<String, String>,
    /// With their keys, which are not told.
    upstreams: Vec<Target>,
    seen: Option<Stamp>,
}

impl Reloader {
    pub fn new(source: Source, reach: Reach, config: &Config) -> Self {
        let seen = source.seen;
        Self {
            source,
            reach,
            current: flat(config),
            upstreams: config.engine.upstreams.clone(),
            seen,
        }
    }

    /// Waits until the file has changed and stayed the same for one look.
    pub async fn changed(&self) {
        let mut last = self.seen;
        loop {
            tokio::time::sleep(EVERY).await;
            let now = stamp(self.source.file.as_deref());
            if now.is_some() && now != self.seen && now == last {
                return;
            }
            last = now;
        }
    }

    /// Reads everything again; a configuration with a mistake changes nothing.
    pub async fn reload(&mut self, why: &str) {
        // Whoever sends SIGHUP has changed the file: it is not read once more for that.
        self.seen = stamp(self.source.file.as_deref());
        let config = match (self.source.load)() {
            Ok((config, warnings)) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                config
            }
            Err(error) => {
                tracing::error!(
                    why,
                    error = format!("{error:#}"),
                    "the configuration was not reloaded"
                );
                return;
            }
        };
        let next = flat(&config);
        let (live, mut refused): (Vec<String>, Vec<String>) = differing(&self.current, &next)
            .into_iter()
            .partition(|key| is_live(key));
        let (upstreams, key) = (&config.engine.upstreams, "engine.upstreams");
        if *upstreams != self.upstreams && !refused.iter().any(|other| other == key) {
            refused.push(key.into());
        }
        let mut done = Vec::new();
        for key in live {
            match self.apply(&key, &config).await {
                Ok(()) => {
                    match next.get(&key) {
                        Some(value) => self.current.insert(key.clone(), value.clone()),
                        None => self.current.remove(&key),
                    };
                    done.push(key);
                }
                Err(error) => tracing::error!(key, error, "this change was refused"),
            }
        }
        self.show(&config, &done, &refused);
        tracing::info!(why, changed = done.join(", "), "configuration reloaded");
        if !refused.is_empty() {
            tracing::warn!(
                keys = refused.join(", "),
                "these keys hold from the next start on; SIGUSR2 starts anew without a gap"
            );
        }
    }

    /// What `GET /admin/config` tells from now on.
    fn show(&self, config: &Config, done: &[String], refused: &[String]) {
        let next = config.shown();
        let app = &self.reach.app;
        let mut told = api::Configured::clone(&app.config.load());
        for key in done {
            take_over(&mut told.config, &next, key);
        }
        told.next_start = refused.to_vec();
        app.config.store(Arc::new(told));
    }

    async fn apply(&self, key: &str, config: &Config) -> Result<(), String> {
        let (app, gateway) = (&self.reach.app, &self.reach.app.gateway);
        let server = &config.server;
        if let Some(hook) = hook(key) {
            let settings = config.policies.hook(hook).config.clone();
            let configured = gateway.policies.configure(hook, settings).await;
            return configured.map_err(|error| error.to_string());
        }
        match key {
            "log.filter" => app
                .logging
                .configure(&config.log.filter)
                .map_err(|error| error.to_string())?,
            "server.cors_origins" => {
                let allowed = self.reach.pages.allow(&server.cors_origins);
                allowed.map_err(|error| error.to_string())?;
            }
            // Whichever of these keys is applied first brings the token along.
            _ if is_access(key) && !self.may_be_open(server) => {
                return Err(format!(
                    "server.admin_token is empty: whoever reaches {} could change policies",
                    self.reach.admin
                ));
            }
            _ if is_access(key) => {
                let (keys, tenants) = (&server.keys, &server.tenants);
                let renewed =
                    app.access
                        .load()
                        .renewed(keys, server.limits, tenants, &server.admin_token);
                app.access.store(Arc::new(renewed));
            }
            "server.max_rss" => self.reach.max_rss.store(server.max_rss, Ordering::Relaxed),
            "server.drain" => {
                let ms = u64::try_from(server.drain.as_millis()).unwrap_or(u64::MAX);
                self.reach.drain_ms.store(ms, Ordering::Relaxed);
            }
            "engine.queue" => {
                // The slots are those that the engine was started with.
                let slots = gateway.admission.slots();
                gateway
                    .admission
                    .resize(slots + config.engine.queue as usize);
            }
            _ => {
                gateway.live.store(Arc::new(live(config)));
                app.live.store(Arc::new(live_doors(config)));
            }
        }
        Ok(())
    }

    /// Whether the admin address that is served may do without a token.
    fn may_be_open(&self, server: &http::Settings) -> bool {
        !server.admin_token.is_empty() || self.reach.admin.ip().is_loopback()
    }
}

/// What a request takes from the configuration when it begins.
pub fn live(config: &Config) -> Live {
    Live {
        defaults: stent::chat::Defaults {
            max_tokens: config.engine.max_tokens,
            temperature: config.engine.temperature,
            seed: config.engine.seed,
        },
        reader_timeout: config.server.reader_timeout,
        capture_content: config.telemetry.capture_content,
    }
}

/// What a request takes from it when it comes in.
pub fn live_doors(config: &Config) -> api::Live {
    let server = &config.server;
    api::Live {
        bodies: api::BodyLimits {
            bytes: usize::try_from(server.max_body).unwrap_or(usize::MAX),
            key: "server.max_body",
            time: server.body_timeout,
        },
        heartbeat: server.heartbeat,
        traceparent: config.telemetry.traceparent,
    }
}

pub fn stamp(file: Option<&Path>) -> Option<Stamp> {
    let about = std::fs::metadata(file?).ok()?;
    Some((about.modified().ok()?, about.len()))
}
