//! Puts the stages together, serves until a signal, and takes them apart in order.

mod files;
mod limit;
mod manager;
pub mod reload;
mod scrape;
mod signals;
mod sockets;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use stent::access::Access;
use stent::admission::Admission;
use stent::api::{self, App};
use stent::cache::Cache;
use stent::chat::{Flights, Gateway};
use stent::config::Config;
use stent::engine::{self, Engine};
use stent::metrics::Metrics;
use stent::policy::{
    CallFacts, FaultFacts, Hook, Observer, Policies, ReloadFacts, ShadowFacts, StopFacts,
    Surroundings,
};
use stent::relay::Relay;
use stent::seal::Keys;
use stent::session::Sessions;
use stent::starts::Starts;
use stent::trace::Logging;
use stent::{http, trace};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use reload::{Reach, Reloader, Source};
use signals::{Signals, reopen_at_usr1, told};
use sockets::Inherited;

/// Why it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was told to.
    Stopped,
    /// Another process takes its place.
    Upgraded,
    /// It holds more than `server.max_rss`.
    Memory,
}

/// The exit status that asks the service manager for a fresh start: EX_TEMPFAIL of sysexits(3).
const START_AGAIN: u8 = 75;

/// Serves until it is told to stop; the exit status is 0, or [`START_AGAIN`].
pub fn serve(config: Config, warnings: &[String], source: Source) -> anyhow::Result<u8> {
    // The environment is read and changed before there are threads.
    let inherited = Inherited::take()?;
    let (tracing, logging) = trace::init(&config.telemetry, &config.log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot start")?;
    let served = runtime.block_on(run(config, inherited, source, (&tracing, logging)));
    // Nothing may still use the runtime's threads when the last spans are sent.
    runtime.shutdown_timeout(Duration::from_secs(2));
    tracing.close();
    served
}

async fn run(
    config: Config,
    inherited: Inherited,
    source: Source,
    (tracing, logging): (&trace::Guard, Logging),
) -> anyhow::Result<u8> {
    reopen_at_usr1(&logging)?;
    let mut signals = Signals::await_them()?;
    // What is wrong with the files is told before anybody can connect, and the ports come before
    // the model: a second server should fail before it loads one.
    engine::check(&config.engine)?;
    let server = &config.server;
    files::allow(server.max_connections);
    let certificates = (server.certificates()?, server.admin_certificates()?);
    let replaces = inherited.replaces;
    let sockets = inherited.open(server)?;
    let spare = sockets.spare()?;
    let (public, admin) = (sockets.public, sockets.admin);
    let (public_address, admin_address) = (public.local_addr()?, admin.local_addr()?);
    // A socket that was passed may be another one than the configuration speaks of.
    http::Settings {
        listen: public_address,
        admin: admin_address,
        ..server.clone()
    }
    .check()?;

    let started = Instant::now();
    let (starts, written) = Starts::record(&config.data.dir, replaces);
    if let Err(error) = written {
        let folder = config.data.dir.display();
        tracing::warn!(%error, "restarts cannot be counted: {folder} cannot be written");
    }
    let starts = Arc::new(starts);
    let sessions = {
        let (settings, data) = (config.sessions.clone(), config.data.dir.clone());
        // The file may have to be repaired after a crash.
        tokio::task::spawn_blocking(move || Sessions::open(&settings, &data)).await??
    };
    let engine = {
        let (settings, data) = (config.engine.clone(), config.data.dir.clone());
        // Loading blocks for as long as the disk takes.
        tokio::task::spawn_blocking(move || engine::start(&settings, &data)).await??
    };
    let cache = Keys::found()
        .map_err(|error| error.to_string())
        .and_then(|keys| Cache::open(&config.cache, keys))
        .map_err(anyhow::Error::msg)?;
    let metrics = Arc::new(Metrics::new(engine.provider(), &engine.model().name));
    let policies = {
        let around = Surroundings {
            tokenizer: engine.tokenizer(),
            data_dir: config.data.dir.clone(),
            observer: Arc::new(Watching(Arc::clone(&metrics))),
            compiler: None,
        };
        let settings = config.policies.clone();
        tokio::task::spawn_blocking(move || Policies::start(settings, around)).await??
    };
    let gateway = Arc::new(gateway(
        &config,
        engine,
        (policies, metrics),
        (sessions, cache),
    ));
    let most = usize::try_from(server.max_connections).unwrap_or(usize::MAX);
    let rooms = [http::Room::new(most), http::Room::new(most)];
    scrape::read(&gateway, tracing, Arc::clone(&starts), rooms.clone());

    let app = Arc::new(App {
        gateway: Arc::clone(&gateway),
        access: ArcSwap::from_pointee(Access::new(
            &server.keys,
            server.limits,
            &server.tenants,
            &server.admin_token,
        )),
        live: ArcSwap::from_pointee(reload::live_doors(&config)),
        replays: api::Replays::new(api::ReplayLimits {
            window: server.resume,
            time: server.replay,
            bytes: usize::try_from(server.replay_bytes).unwrap_or(usize::MAX),
        }),
        upload_bytes: usize::try_from(config.policies.limits.file_bytes).unwrap_or(usize::MAX),
        page: server.page,
        trace_url: config.telemetry.trace_url.clone(),
        traces: tracing.ring(),
        started,
        starts: Arc::clone(&starts),
        logging,
        config: ArcSwap::from_pointee(api::Configured {
            config: config.shown(),
            next_start: Vec::new(),
        }),
        draining: AtomicBool::new(false),
        leaving: AtomicBool::new(false),
    });
    let pages = http::Pages::new(api::router(Arc::clone(&app)), &server.cors_origins)?;
    let [room, admin_room] = rooms;
    let (certificate, admin_certificate) = certificates;
    let admin_routes = api::admin_routes(Arc::clone(&app));
    let doors = Doors {
        public: http::Door::open(public, pages.router(), server, (certificate, room)),
        admin: http::Door::open(admin, admin_routes, server, (admin_certificate, admin_room)),
    };
    tracing::info!(
        model = gateway.engine.model().name,
        listen = %public_address,
        admin = %admin_address,
        ready_after_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "ready"
    );
    manager::ready(&gateway.engine.model().name, replaces);
    if let Some(before) = replaces {
        sockets::relieve(before);
    }

    let reach = Reach {
        app: Arc::clone(&app),
        pages,
        admin: admin_address,
        max_rss: Arc::new(AtomicU64::new(server.max_rss)),
        drain_ms: Arc::new(AtomicU64::new(ms(server.drain))),
    };
    let drain_ms = Arc::clone(&reach.drain_ms);
    let reason = {
        let limit = limit::exceeded(Arc::clone(&gateway), Arc::clone(&reach.max_rss));
        let watchdog = manager::watchdog(Arc::clone(&gateway.engine));
        let mut reloader = Reloader::new(source, reach, &config);
        tokio::select! {
            reason = told(&mut signals, &spare, &mut reloader) => reason?,
            () = limit => End::Memory,
            () = watchdog => End::Stopped,
        }
    };
    // From here on nobody may wait in a queue that nobody serves.
    drop(spare);
    manager::stopping();
    let drain = Duration::from_millis(drain_ms.load(Ordering::Relaxed));
    let watchdog = tokio::spawn(manager::watchdog(Arc::clone(&gateway.engine)));
    match reason {
        End::Upgraded => doors.hand_over(&app, drain).await,
        _ => doors.shut(&app, drain).await,
    }
    watchdog.abort();
    if let Err(error) = starts.end() {
        tracing::warn!(%error, "this end will count as a crash: it cannot be written down");
    }
    gateway.sessions.close().await;
    Ok(match reason {
        End::Memory => START_AGAIN,
        _ => 0,
    })
}

struct Doors {
    public: http::Door,
    admin: http::Door,
}

impl Doors {
    /// The end: newcomers are refused, running answers may finish.
    async fn shut(&self, app: &App, drain: Duration) {
        let gateway = &app.gateway;
        tracing::info!("shutting down: running answers are finished first");
        app.draining.store(true, Ordering::Relaxed);
        gateway.admission.close();
        gateway.answers.close();
        // The public door stays open meanwhile, to tell newcomers that they should go elsewhere.
        let drained = async || {
            gateway.answers.wait().await;
            self.public.close().await;
        };
        if tokio::time::timeout(drain, drained()).await.is_err() {
            let answers = gateway.answers.len();
            tracing::warn!(answers, after = ?drain, "what still runs is cut off");
            gateway.cut.cancel();
            if tokio::time::timeout(LAST_WORDS, drained()).await.is_err() {
                tracing::warn!("not every client took its last words");
            }
        }
        // Whoever watches the end may do so until it is over.
        let _ = tokio::time::timeout(LAST_WORDS, self.admin.close()).await;
    }

    /// Another process accepts from the same sockets by now: whoever is connected here is served to
    /// the end of their connection, and each answer asks them to open another one.
    async fn hand_over(&self, app: &App, drain: Duration) {
        tracing::info!("another process takes over: who is connected here is still served");
        app.leaving.store(true, Ordering::Relaxed);
        app.gateway.policies.stand_down();
        self.public.leave();
        self.admin.leave();
        let _ = tokio::time::timeout(drain, self.public.empty()).await;
        self.shut(app, Duration::from_millis(ms(drain)).min(LAST_WORDS))
            .await;
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How long a client may take to read that its answer was cut off.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn gateway(
    config: &Config,
    engine: Arc<dyn Engine>,
    (policies, metrics): (Arc<Policies>, Arc<Metrics>),
    (sessions, cache): (Sessions, Cache),
) -> Gateway {
    let shared = cache.shared();
    let relay = shared.map(|(redis, keys)| Relay::new(redis.clone(), keys.clone()));
    Gateway {
        policies,
        sessions,
        cache,
        admission: Admission::new(config.engine.slots as usize, config.engine.queue as usize),
        flights: Flights::new(relay),
        engine,
        metrics,
        live: ArcSwap::from_pointee(reload::live(config)),
        answers: TaskTracker::new(),
        cut: CancellationToken::new(),
    }
}

/// Policy calls and reloads, counted.
struct Watching(Arc<Metrics>);

impl Observer for Watching {
    fn called(&self, call: &CallFacts<'_>) {
        let hook = call.hook.as_str();
        self.0.costs.called(hook, call.live, call.elapsed);
        if call.live {
            self.0.policy_call(hook, call.policy, call.elapsed);
        }
    }

    fn remembered(&self, hook: Hook) {
        self.0.policy_remembered(hook.as_str());
    }

    fn cold(&self, hook: Hook) {
        self.0.policy_cold(hook.as_str());
    }

    fn faulted(&self, fault: &FaultFacts<'_>) {
        self.0.costs.faulted(fault.hook.as_str());
        self.0
            .policy_fault(fault.hook.as_str(), fault.policy, fault.kind);
    }

    fn stopped(&self, stop: &StopFacts<'_>) {
        self.0.filter_stop(stop.policy, stop.reason);
    }

    fn compared(&self, shadow: &ShadowFacts<'_>) {
        self.0
            .shadow(shadow.hook.as_str(), shadow.policy, shadow.result);
    }

    fn reloaded(&self, reload: &ReloadFacts) {
        let hook = reload.hook.map_or("", Hook::as_str);
        if reload.result != "rejected" && reload.hook.is_some() {
            self.0.costs.changed(hook);
        }
        self.0.reload(reload.result, reload.stage, hook);
    }
}
