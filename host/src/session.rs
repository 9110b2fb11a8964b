//! What was said before: each session's history, keyed by tenant and session, in the store that
//! the configuration names, with one writer at a time.

pub mod backup;
mod error;
mod fallback;
mod format;
mod line;
mod memory;
mod record;
mod redb;
mod redis;
mod settings;
mod store;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use self::redb::FILE;
pub use crate::seal::{KEYS_VARIABLE, Keys};
pub use error::SessionError;
pub use line::Watch;
pub use record::{Exchange, Record, Session};
pub use settings::{OnBusy, OnFailure, Settings, Where};
pub use store::{Place, Store};

use crate::redis::Redis;
use crate::types::SessionKey;
use line::{Line, Ticket};
use store::{Addition, Begun, Lease, Stored};

/// All sessions, wherever they are.
pub struct Sessions {
    store: Arc<dyn Store>,
    line: Line,
    settings: Settings,
}

/// The right to add one exchange to a session. While it is held nobody else writes there, on any
/// host that shares the store; dropping it gives the right back.
pub struct Writer {
    key: SessionKey,
    /// Number of the exchange that it may add.
    next: u32,
    /// The last exchange has that number, and makes room.
    replaces: bool,
    store: Arc<dyn Store>,
    /// Dropped before the ticket: the next one here may take the lease as soon as it has its turn.
    lease: Option<Lease>,
    ticket: Ticket,
}

/// A session as a request finds it.
pub struct Opened {
    pub session: Session,
    pub writer: Writer,
    /// Which store it came from.
    pub place: Place,
}

/// Where an exchange went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub place: Place,
    /// `ok`; `anew` where the session was gone from the store; `forgotten` where somebody asked
    /// for that meanwhile, and nothing was kept.
    pub result: &'static str,
}

impl Sessions {
    /// Opens the store; `data` is the folder for one that keeps a file. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// A sentence that names the key, the file or the variable that is wrong.
    pub fn open(settings: &Settings, data: &Path) -> Result<Self, SessionError> {
        let keys = Keys::of_sessions(settings.encrypt)?;
        let store: Arc<dyn Store> = match &settings.store {
            Where::Memory => Arc::new(memory::Memory::new(settings)),
            Where::Redb => Arc::new(redb::Redb::open(settings, data, keys)?),
            Where::Redis(address) => {
                let redis = redis::Shared::open(settings, address, keys)?;
                match settings.on_store_failure {
                    OnFailure::Refuse => Arc::new(redis),
                    OnFailure::Local => fallback::Fallback::over(redis, settings),
                }
            }
        };
        Ok(Self {
            store,
            line: Line::default(),
            settings: settings.clone(),
        })
    }

    /// The session's history and the right to add to it. Where another request has that right,
    /// this waits or refuses, as `sessions.on_busy` says.
    ///
    /// # Errors
    /// [`SessionError::Busy`], or what is wrong with the store.
    pub async fn open_for(&self, key: SessionKey) -> Result<Opened, SessionError> {
        let patience = match self.settings.on_busy {
            OnBusy::Wait => self.settings.busy_timeout,
            OnBusy::Refuse => Duration::ZERO,
        };
        let start = tokio::time::Instant::now();
        let ticket = self.line.wait(&key, patience).await?;
        let Begun {
            records,
            lease,
            place,
        } = self.begin(&key, start + patience, patience).await?;
        let session = Session::of(&records);
        let writer = Writer {
            next: session.next().1,
            replaces: false,
            key,
            lease: Some(lease),
            store: Arc::clone(&self.store),
            ticket,
        };
        Ok(Opened {
            session,
            writer,
            place,
        })
    }

    /// Asks the store until no other host writes.
    async fn begin(
        &self,
        key: &SessionKey,
        until: tokio::time::Instant,
        patience: Duration,
    ) -> Result<Begun, SessionError> {
        loop {
            if let Some(begun) = self.store.begin(key).await? {
                return Ok(begun);
            }
            let pause = Duration::from_millis(fastrand::u64(10..40));
            if tokio::time::Instant::now() + pause >= until {
                return Err(SessionError::Busy { waited: patience });
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The history as it is stored; empty where nothing was said yet.
    ///
    /// # Errors
    /// What is wrong with the store.
    pub async fn load(&self, key: &SessionKey) -> Result<Session, SessionError> {
        Ok(Session::of(&self.store.load(key).await?))
    }

    /// Adds a finished exchange, or puts it in the last one's place, and gives the right to write back. When this returns, the exchange
    /// is where the store promises it to be.
    ///
    /// # Errors
    /// What is wrong with the store, or [`SessionError::Taken`]; the exchange does not count as
    /// kept then.
    pub async fn append(&self, writer: Writer, exchange: Exchange) -> Result<Kept, SessionError> {
        // A request that is given up meanwhile must not give the right to write back before its
        // exchange is where it belongs.
        let done = tokio::spawn(writer.add(exchange)).await;
        done.unwrap_or_else(|error| {
            Err(SessionError::Store {
                kind: "stopped",
                why: error.to_string(),
            })
        })
    }

    /// Forgets the session; tells whether there was one. An answer that is being written for it
    /// goes on and is not remembered. Its [`Watch`] knows as soon as this is called, before anything
    /// is waited for.
    ///
    /// # Errors
    /// What is wrong with the store; the session may still be there.
    pub fn forget<'a>(
        &'a self,
        key: &'a SessionKey,
    ) -> impl Future<Output = Result<bool, SessionError>> + Send + 'a {
        self.line.forget(key);
        self.store.forget(key)
    }

    /// How many sessions are held, as far as the store knows without looking.
    pub fn count(&self) -> Option<u64> {
        self.store.count()
    }

    /// `sessions.store` in a word.
    pub fn store_name(&self) -> &'static str {
        self.store.name()
    }

    /// The server that hosts share, where sessions are on one.
    pub fn server(&self) -> Option<&Redis> {
        self.store.server()
    }

    /// Standing trouble of the store, and whether requests are refused for it.
    pub fn trouble(&self) -> Option<(String, bool)> {
        let refuses = self.settings.on_store_failure == OnFailure::Refuse;
        self.store.trouble().map(|trouble| (trouble, refuses))
    }

    /// Ends what runs beside requests and closes files.
    pub async fn close(&self) {
        self.store.close().await;
    }
}

impl Writer {
    /// Sees whether the session is forgotten, also once the right is given back.
    pub fn watch(&self) -> Watch {
        self.ticket.watch()
    }

    /// From here on the exchange takes the place of the session's last one, which stays until then:
    /// the session as it was before that. `None` where there is none.
    pub fn replace_last(&mut self, session: &Session) -> Option<Session> {
        let before = session.without_last()?;
        (self.next, self.replaces) = (before.next().1, true);
        Some(before)
    }

    async fn add(mut self, exchange: Exchange) -> Result<Kept, SessionError> {
        let forgotten = |place| Kept {
            place,
            result: "forgotten",
        };
        let Some(lease) = self.lease.take() else {
            return Ok(forgotten(self.store.name().into()));
        };
        if self.ticket.forgotten() {
            self.store.release(&self.key, lease).await;
            return Ok(forgotten(self.store.name().into()));
        }
        let addition = Addition {
            record: Arc::new(exchange.into_record(self.next)),
            replaces: self.replaces,
        };
        let (stored, place) = self.store.append(&self.key, lease, addition).await?;
        let result = match stored {
            Stored::Taken => return Err(SessionError::Taken),
            Stored::Forgotten => return Ok(forgotten(place)),
            // Somebody asked for that while it was written.
            _ if self.ticket.forgotten() => {
                self.store.forget(&self.key).await?;
                return Ok(forgotten(place));
            }
            Stored::Kept => "ok",
            Stored::Anew => "anew",
        };
        Ok(Kept { place, result })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take().filter(Lease::is_shared) else {
            return;
        };
        let (store, key) = (Arc::clone(&self.store), self.key.clone());
        // Without a runtime the process ends, and the lease runs out by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { store.release(&key, lease).await });
        }
    }
}
