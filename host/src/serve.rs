//! Puts the stages together, serves until a signal, and takes them apart in order.

mod limit;
mod manager;
pub mod reload;
mod sockets;

use std::process::Child;
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
use stent::session::Sessions;
use stent::starts::Starts;
use stent::trace::Logging;
use stent::{http, trace};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use reload::{Reach, Reloader, Source};
use sockets::{Inherited, Spare};

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
    // What is wrong with the files is told before anybody can connect, and the ports come before
    // the model: a second server should fail before it loads one.
    engine::check(&config.engine)?;
    let server = &config.server;
    let certificates = server.certificates()?;
    let replaces = inherited.replaces;
    let sockets = inherited.open(server)?;
    let spare = sockets.spare()?;
    let (public, admin) = (sockets.public, sockets.admin);
    let (public_address, admin_address) = (public.local_addr()?, admin.local_addr()?);

    let started = Instant::now();
    let (starts, written) = Starts::record(&config.data.dir, replaces);
    if let Err(error) = written {
        let folder = config.data.dir.display();
        tracing::warn!(%error, "restarts cannot be counted: {folder} cannot be written");
    }
    let starts = Arc::new(starts);
    let engine = {
        let (settings, data) = (config.engine.clone(), config.data.dir.clone());
        // Loading blocks for as long as the disk takes.
        tokio::task::spawn_blocking(move || engine::start(&settings, &data)).await??
    };
    let metrics = Arc::new(Metrics::new(&engine.model().name));
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
    let gateway = Arc::new(gateway(&config, engine, policies, metrics));
    read_at_scrape(&gateway, tracing, Arc::clone(&starts));

    let app = Arc::new(App {
        gateway: Arc::clone(&gateway),
        access: Access::new(
            &server.keys,
            server.limits,
            &server.tenants,
            &server.admin_token,
        ),
        replays: api::Replays::new(api::ReplayLimits {
            window: server.resume,
            time: server.replay,
            bytes: usize::try_from(server.replay_bytes).unwrap_or(usize::MAX),
        }),
        bodies: api::BodyLimits {
            bytes: usize::try_from(server.max_body).unwrap_or(usize::MAX),
            key: "server.max_body",
            time: server.body_timeout,
        },
        upload_bytes: usize::try_from(config.policies.limits.file_bytes).unwrap_or(usize::MAX),
        page: server.page,
        heartbeat: server.heartbeat,
        traceparent: config.telemetry.traceparent,
        trace_url: config.telemetry.trace_url.clone(),
        traces: tracing.ring(),
        started,
        starts: Arc::clone(&starts),
        logging,
        draining: AtomicBool::new(false),
        leaving: AtomicBool::new(false),
    });
    let routes = http::cors(api::router(Arc::clone(&app)), &server.cors_origins)?;
    let doors = Doors {
        public: http::Door::open(public, routes, server, certificates),
        admin: http::Door::open(admin, api::admin(Arc::clone(&app)), server, None),
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
        gateway: Arc::clone(&gateway),
        max_rss: Arc::new(AtomicU64::new(server.max_rss)),
        drain_ms: Arc::new(AtomicU64::new(ms(server.drain))),
    };
    let drain_ms = Arc::clone(&reach.drain_ms);
    let reason = {
        let limit = limit::exceeded(Arc::clone(&gateway), Arc::clone(&reach.max_rss));
        let watchdog = manager::watchdog(Arc::clone(&gateway.engine));
        let mut reloader = Reloader::new(source, reach, &config);
        tokio::select! {
            reason = told(&spare, &mut reloader) => reason?,
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
    Ok(match reason {
        End::Memory => START_AGAIN,
        _ => 0,
    })
}

/// Serves signals and changes of the configuration until it is time to end, and says why.
async fn told(spare: &Spare, reloader: &mut Reloader) -> anyhow::Result<End> {
    // SIGTERM from a service manager, SIGINT from a terminal.
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    // The next process is ready; a change of the configuration; a change of the program.
    let (mut quit, mut hangup, mut upgrade) = (
        signal(SignalKind::quit())?,
        signal(SignalKind::hangup())?,
        signal(SignalKind::user_defined2())?,
    );
    let mut next: Option<Child> = None;
    let mut look = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(End::Stopped),
            _ = int.recv() => return Ok(End::Stopped),
            _ = quit.recv() => return Ok(End::Upgraded),
            _ = hangup.recv() => reloader.reload("SIGHUP").await,
            () = reloader.changed() => reloader.reload("the file changed").await,
            _ = upgrade.recv() => match (&next, spare.start_next()) {
                (Some(child), _) => tracing::warn!(pid = child.id(), "an upgrade is under way"),
                (None, Ok(child)) => {
                    tracing::info!(pid = child.id(), "the next process starts");
                    next = Some(child);
                }
                (None, Err(error)) => tracing::error!(
                    error = format!("{error:#}"),
                    "the next process cannot be started; this one goes on"
                ),
            },
            _ = look.tick(), if next.is_some() => {
                let ended = next.as_mut().and_then(|child| child.try_wait().ok().flatten());
                if let Some(status) = ended {
                    tracing::error!(%status, "the next process ended early; this one goes on");
                    next = None;
                }
            }
        }
    }
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
    policies: Arc<Policies>,
    metrics: Arc<Metrics>,
) -> Gateway {
    Gateway {
        policies,
        sessions: Sessions::new(&config.sessions),
        cache: Cache::new(&config.cache),
        admission: Admission::new(config.engine.slots as usize, config.engine.queue as usize),
        flights: Flights::default(),
        engine,
        metrics,
        live: ArcSwap::from_pointee(reload::live(config)),
        answers: TaskTracker::new(),
        cut: CancellationToken::new(),
    }
}

/// SIGUSR1 from whoever rotates the log. It is taken even where there is no file: by default it would
/// end the process.
fn reopen_at_usr1(logging: &Logging) -> std::io::Result<()> {
    let mut usr1 = signal(SignalKind::user_defined1())?;
    let logging = logging.clone();
    // Lives as long as the runtime.
    tokio::spawn(async move {
        while usr1.recv().await.is_some() {
            match logging.reopen() {
                Ok(()) => tracing::info!("SIGUSR1: the log is open again"),
                Err(error) => tracing::error!(%error, "SIGUSR1: lines go on into the old file"),
            }
        }
    });
    Ok(())
}

/// Gauges are read when somebody looks.
fn read_at_scrape(gateway: &Arc<Gateway>, tracing: &trace::Guard, starts: Arc<Starts>) {
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
        readings.sessions = usize::try_from(gateway.sessions.count()).ok();
        readings.cache_entries = Some(gateway.cache.entries());
        readings.cache_bytes = Some(gateway.cache.bytes());
        readings.policy_generation = Some(gateway.policies.generation());
        readings.policy_generations_live = Some(gateway.policies.live_generations());
        readings.policy_alarms = Some(gateway.policies.alarms().len());
        readings.restarts = Some(starts.restarts().day);
        readings.spans_ended = Some(counts.ended());
        readings.spans_dropped = Some(counts.dropped());
    });
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
