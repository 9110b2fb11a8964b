//! The way to a Redis or Valkey server that several hosts share.
//!
//! A [`Redis`] is cheap to clone. Every use of it waits for a bounded time, and a server that
//! failed several times in a row is not asked again before it has answered a probe: trouble there
//! costs a request at most one timeout, and most requests nothing.

mod address;
mod look;
mod probe;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::redis::Client;
use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use arc_swap::ArcSwap;

pub use ::redis::aio::{ConnectionLike, MultiplexedConnection};
pub use ::redis::{
    AsyncCommands, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, Script, ScriptInvocation,
    Value, cmd, pipe,
};
pub use address::{Address, EXAMPLE};
pub use look::look;

/// How long anybody waits for Redis unless told otherwise.
pub const TIMEOUT: Duration = Duration::from_millis(50);
/// How long a TCP connection may take to be there; only the probe and a reconnect wait for it.
const CONNECT: Duration = Duration::from_secs(1);
/// Failures in a row after which the server counts as down.
const PATIENCE: u32 = 3;

/// Why something could not be had from Redis. Commands and what they carried are never part of
/// the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Trouble {
    /// It failed before and has not answered since: it was not asked.
    #[error("it is down")]
    Down,
    #[error("it did not answer in time")]
    Slow,
    /// The connection could not be made or broke.
    #[error("the connection failed")]
    Lost,
    /// It answered with an error: no memory, a read-only replica, still loading, no permission.
    #[error("it answered with an error ({0})")]
    Refused(&'static str),
}

impl Trouble {
    /// A fixed word, for labels and spans.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Slow => "slow",
            Self::Lost => "lost",
            Self::Refused(_) => "refused",
        }
    }
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() {
            return Self::Slow;
        }
        match error.kind() {
            ErrorKind::Io | ErrorKind::Client => Self::Lost,
            ErrorKind::AuthenticationFailed => Self::Refused("authentication failed"),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
                Self::Refused("not what was expected")
            }
            _ if error.is_connection_dropped() => Self::Lost,
            _ => Self::Refused(word(error.code().unwrap_or_default())),
        }
    }
}

/// The server's own word for its error, where it is a known one.
fn word(code: &str) -> &'static str {
    const KNOWN: [&str; 12] = [
        "OOM",
        "READONLY",
        "LOADING",
        "BUSY",
        "NOAUTH",
        "WRONGPASS",
        "NOPERM",
        "MISCONF",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "WRONGTYPE",
        "MOVED",
    ];
    KNOWN
        .into_iter()
        .find(|&known| known == code)
        .unwrap_or("ERR")
}

/// How the server fares.
#[derive(Clone, Debug)]
pub struct Health {
    pub healthy: bool,
    /// Since when it is as it is.
    pub since: Instant,
    /// The last failure, also where the server has recovered.
    pub last: Option<Trouble>,
}

/// A shared, bounded way to one server.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
    timeout: Duration,
}

struct Shared {
    address: Address,
    client: Client,
    /// Replaced by the probe when the server is silent: the old connection may be a dead one that
    /// TCP still believes in.
    manager: ArcSwap<ConnectionManager>,
    state: Mutex<State>,
    uses: AtomicU64,
    /// Microseconds that they took.
    waited: AtomicU64,
    failures: AtomicU64,
    skipped: AtomicU64,
    timeout: Duration,
}

/// What became of all uses so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Those that were tried, and how long they took together.
    pub uses: u64,
    pub waited: Duration,
    /// Those that failed, and failed probes.
    pub failures: u64,
    /// Those that were not tried, because the server was known to be down.
    pub skipped: u64,
}

struct State {
    health: Health,
    /// Failures since the last answer.
    in_a_row: u32,
}

impl Redis {
    /// Does not connect yet: a server that is down is an unhealthy one, and is used as soon as it
    /// answers. Must be called within a tokio runtime, where a probe looks after the server until
    /// the last clone is dropped.
    ///
    /// # Errors
    /// A sentence where no connection could ever be made with this address.
    pub fn open(address: &Address, timeout: Duration) -> Result<Self, String> {
        let told = |error: RedisError| format!("{address}: {}", Trouble::from(error));
        let client = Client::open(address.info().clone()).map_err(told)?;
        let manager = manager(&client, timeout).map_err(told)?;
        let health = Health {
            healthy: true,
            since: Instant::now(),
            last: None,
        };
        let shared = Arc::new(Shared {
            address: address.clone(),
            client,
            manager: ArcSwap::from_pointee(manager),
            state: Mutex::new(State {
                health,
                in_a_row: 0,
            }),
            uses: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            timeout,
        });
        probe::start(&shared);
        Ok(Self { shared, timeout })
    }

    /// The same server, with another patience for each use.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            timeout,
        }
    }

    /// Does something with a connection, within the timeout. The connection is shared: nothing
    /// that blocks it, such as `BLPOP` or `SUBSCRIBE`, may be sent; see [`Redis::own`].
    ///
    /// What was sent may still be carried out after [`Trouble::Slow`] or [`Trouble::Lost`].
    ///
    /// # Errors
    /// [`Trouble::Down`] at once while the server is unhealthy; otherwise what went wrong.
    pub async fn run<T, F>(&self, action: impl FnOnce(ConnectionManager) -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        if !self.is_healthy() {
            self.shared.skipped.fetch_add(1, Ordering::Relaxed);
            return Err(Trouble::Down);
        }
        let connection = ConnectionManager::clone(&self.shared.manager.load());
        let start = Instant::now();
        let done = tokio::time::timeout(self.timeout, action(connection)).await;
        self.shared.used(start.elapsed());
        let result = match done {
            Ok(result) => result.map_err(Trouble::from),
            Err(_) => Err(Trouble::Slow),
        };
        self.shared.note(result.as_ref().err().copied());
        result
    }

    /// A connection of one's own, for what blocks: it has no timeout but for being made.
    ///
    /// # Errors
    /// As [`Redis::run`].
    pub async fn own(&self) -> Result<MultiplexedConnection, Trouble> {
        if !self.is_healthy() {
            return Err(Trouble::Down);
        }
        let config = ::redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(None);
        let made = self
            .shared
            .client
            .get_multiplexed_async_connection_with_config(&config);
        let result = match tokio::time::timeout(self.timeout, made).await {
            Ok(made) => made.map_err(Trouble::from),
            Err(_) => Err(Trouble::Slow),
        };
        self.shared.note(result.as_ref().err().copied());
        result
    }

    pub fn health(&self) -> Health {
        self.shared.state().health.clone()
    }

    pub fn is_healthy(&self) -> bool {
        self.shared.state().health.healthy
    }

    /// One sentence while the server is unhealthy, for /ready.
    pub fn trouble(&self) -> Option<String> {
        let health = self.health();
        let why = health
            .last
            .map(|trouble| trouble.to_string())
            .unwrap_or_default();
        (!health.healthy).then(|| {
            let seconds = health.since.elapsed().as_secs();
            format!(
                "Redis at {} is down for {seconds} s: {why}",
                self.shared.address
            )
        })
    }

    /// For the metrics.
    pub fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            uses: read(&self.shared.uses),
            waited: Duration::from_micros(read(&self.shared.waited)),
            failures: read(&self.shared.failures),
            skipped: read(&self.shared.skipped),
        }
    }

    /// How long one use may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub fn address(&self) -> &Address {
        &self.shared.address
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.uses.fetch_add(1, Ordering::Relaxed);
        self.waited.fetch_add(micros, Ordering::Relaxed);
    }

    /// Takes down how a use ended. An error that the server itself answers is a failure of that
    /// use; the server is there all the same.
    fn note(&self, trouble: Option<Trouble>) {
        if trouble.is_some() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        let mut state = self.state();
        match trouble {
            None => state.in_a_row = 0,
            Some(trouble @ (Trouble::Slow | Trouble::Lost | Trouble::Down)) => {
                state.in_a_row = state.in_a_row.saturating_add(1);
                state.health.last = Some(trouble);
                if state.health.healthy && state.in_a_row >= PATIENCE {
                    state.turn(false);
                    tracing::warn!(redis = %self.address, %trouble, "Redis is down");
                }
            }
            Some(trouble @ Trouble::Refused(_)) => state.health.last = Some(trouble),
        }
    }

    /// A probe was answered.
    fn recovered(&self) {
        let mut state = self.state();
        state.in_a_row = 0;
        if !state.health.healthy {
            let after = state.health.since.elapsed();
            state.turn(true);
            tracing::info!(redis = %self.address, ?after, "Redis is back");
        }
    }
}

impl State {
    fn turn(&mut self, healthy: bool) {
        self.health.healthy = healthy;
        self.health.since = Instant::now();
    }
}

/// Reconnects in the background, soon and without end: whoever waits has a timeout of their own.
fn manager(client: &Client, timeout: Duration) -> Result<ConnectionManager, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT))
        // The uses have their own, which may be longer than this one's owner's.
        .set_response_timeout(Some(timeout.max(CONNECT)))
        .set_min_delay(Duration::from_millis(20))
        .set_max_delay(Duration::from_millis(250))
        .set_number_of_retries(2)
        .set_pipeline_buffer_size(1024);
    client.get_connection_manager_lazy(config)
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({})", self.shared.address)
    }
}
