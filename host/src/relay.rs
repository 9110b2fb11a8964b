//! Runs that hosts share: whoever is first with a question takes a lease on a Redis or Valkey
//! server and writes what is said to a stream there; hosts that are asked the same read it from its
//! first word.
//!
//! A lease that is not renewed ends after [`LEASE`], and with it what its readers may wait for: they
//! compute for themselves then. Every key has a time to live, and a stream a largest size. Where
//! the server is in trouble nobody waits longer than `cache.timeout`, and nothing is shared.

mod lease;
mod piece;
mod reader;
mod scripts;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

pub use lease::{Lease, Standing};
pub use piece::{End, Piece};
pub use reader::{Read, Reader};

use crate::redis::{FromRedisValue, Redis, ScriptInvocation};
use crate::seal::Keys;
use scripts::{Scripts, call};

/// A lease that is not renewed for so long is nobody's.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often its holder renews it.
pub const RENEW: Duration = Duration::from_millis(500);
/// A reader that does not show for so long has left.
const PRESENCE: Duration = Duration::from_secs(4);
/// What is left of a run goes so long after its last word.
const REMAINS: Duration = Duration::from_secs(30);
/// The most that one run may take on the server; what is longer is not shared any more.
const MAX_BYTES: usize = 2 << 20;
/// Runs of other hosts that are read at once, each over a connection of its own; beyond them this
/// host computes for itself.
const MAX_READERS: usize = 64;

/// Why something could not be had from the server, in a fixed word.
pub type Failure = &'static str;

/// The way to the runs of other hosts. Cheap to clone.
#[derive(Clone)]
pub struct Relay(Arc<Inner>);

struct Inner {
    redis: Redis,
    keys: Keys,
    scripts: Scripts,
    readers: Arc<Semaphore>,
}

/// Who computes.
pub enum Boarding {
    /// This host: others may read what it says.
    Lead(Lease),
    /// Another one, which began before.
    Follow(Reader),
}

impl Relay {
    /// `keys` seal what is said.
    pub fn new(redis: Redis, keys: Keys) -> Self {
        Self(Arc::new(Inner {
            redis,
            keys,
            scripts: Scripts::default(),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
        }))
    }

    /// Joins the run of this name, or takes the lease on it.
    ///
    /// # Errors
    /// What kept the server from saying which; `full` where too many runs are read already.
    pub async fn board(&self, run: &[u8; 32]) -> Result<Boarding, Failure> {
        let name = Name::new(run);
        let own = token()?;
        let place = Arc::clone(&self.0.readers);
        let place = place.try_acquire_owned().map_err(|_| "full")?;
        let mut board = call(&self.0.scripts.board, &[&name.lease(), &name.readers("")]);
        board.arg(&own).arg(millis(LEASE)).arg(millis(PRESENCE));
        let held: String = match self.run(&board).await {
            Ok(held) => held,
            Err(failure) => {
                // It may have been carried out: nobody should wait for a run that is none.
                drop(Lease::new(self.clone(), name, own));
                return Err(failure);
            }
        };
        if held == own {
            return Ok(Boarding::Lead(Lease::new(self.clone(), name, own)));
        }
        Ok(Boarding::Follow(Reader::new(
            self.clone(),
            name,
            held,
            own,
            place,
        )))
    }

    async fn run<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, Failure> {
        self.0
            .redis
            .run(|mut connection| async move { call.invoke_async::<T>(&mut connection).await })
            .await
            .map_err(|trouble| trouble.kind())
    }
}

/// The keys of one run; the braces are Redis Cluster's.
#[derive(Clone)]
struct Name(String);

impl Name {
    fn new(run: &[u8; 32]) -> Self {
        Self(format!("stent:run:{{{}}}", hex::encode(run)))
    }
    fn lease(&self) -> String {
        format!("{}:lease", self.0)
    }
    /// What the holder of this token says.
    fn said(&self, token: &str) -> String {
        format!("{}:said:{token}", self.0)
    }
    fn readers(&self, token: &str) -> String {
        format!("{}:readers:{token}", self.0)
    }
    /// What a sealed piece is bound to: the run, who says it, and its place.
    fn context(&self, token: &str, at: u64) -> Vec<u8> {
        format!("{}:{token}:{at}", self.0).into_bytes()
    }
}

fn token() -> Result<String, Failure> {
    let mut bits = [0_u8; 16];
    getrandom::fill(&mut bits).map_err(|_| "random")?;
    Ok(hex::encode(bits))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
