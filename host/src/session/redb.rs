//! Sessions in a file of this host: an embedded database whose commits are durable.
//!
//! Several processes may have the file open: while one takes over from another, both serve. The
//! database lets one of them write at a time; who may write to a session is a lock of its own.

mod file;
mod locks;
mod tables;
mod writer;

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use futures::future::{BoxFuture, ready};
use redb::Database;

use super::error::SessionError;
use super::format;
use super::record::{Record, now_ms};
use super::settings::Settings;
use super::store::{Addition, Begun, Lease, Place, Records, Store, Stored, Work};
use crate::seal::Keys;
use crate::types::SessionKey;
use file::File;
pub use locks::Lock;
use locks::Locks;
use tables::{Limits, Tables};
use writer::Writer;

/// The file within `data.dir`.
pub const FILE: &str = "sessions.redb";

pub struct Redb {
    database: Handle,
    locks: Locks,
    keys: Keys,
    ttl_ms: u64,
    writer: Writer,
}

/// `None` while the file is being opened anew after an I/O error.
type Handle = Arc<ArcSwapOption<Database>>;

/// Records as they are stored, with their numbers.
type Raw = Vec<(u32, Vec<u8>)>;

impl Redb {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn open(settings: &Settings, data: &Path, keys: Keys) -> Result<Self, SessionError> {
        Self::with(File::of(data)?, settings, data, keys)
    }

    fn with(
        file: File,
        settings: &Settings,
        data: &Path,
        keys: Keys,
    ) -> Result<Self, SessionError> {
        let database = file.open()?;
        let limits = Limits {
            ttl_ms: u64::try_from(settings.ttl.as_millis()).unwrap_or(u64::MAX),
            max_bytes: settings.max_bytes,
            max_exchanges: settings.max_exchanges,
        };
        let count = tables::prepare(&database, limits, &keys)
            .map_err(|error| file.unusable(&error))?
            .map_err(|why| file.refused(why))?;
        let database: Handle = Arc::new(ArcSwapOption::from_pointee(database));
        Ok(Self {
            locks: Locks::open(data)?,
            keys,
            ttl_ms: limits.ttl_ms,
            writer: Writer::start(file, Arc::clone(&database), limits, count)?,
            database,
        })
    }

    /// Reads off the async threads: the page may be on disk.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, SessionError> {
        let Some(database) = self.database.load_full() else {
            return Err(self.writer.failed());
        };
        let done = tokio::task::spawn_blocking(move || read(&database)).await;
        match done {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                // Who looks after the file learns of it by a write.
                self.writer.look();
                Err(failed(&error))
            }
            Err(error) => Err(SessionError::Store {
                kind: "stopped",
                why: error.to_string(),
            }),
        }
    }

    fn decode(&self, key: &SessionKey, raw: Raw) -> Result<Records, SessionError> {
        let decode =
            |(at, bytes): (u32, Vec<u8>)| format::decode(key, at, &bytes, &self.keys).map(Arc::new);
        raw.into_iter().map(decode).collect()
    }

    fn encode(&self, key: &SessionKey, record: &Record) -> Result<(u32, Vec<u8>), SessionError> {
        Ok((record.exchange, format::encode(key, record, &self.keys)?))
    }

    /// The records and when the session was last forgotten.
    async fn raw(&self, key: &SessionKey) -> Result<(Raw, u64), SessionError> {
        let (key, since) = (key.clone(), now_ms().saturating_sub(self.ttl_ms));
        self.read(move |database| tables::load(database, &key, since))
            .await
    }
}

fn failed(error: &redb::Error) -> SessionError {
    SessionError::Store {
        kind: "io",
        why: error.to_string(),
    }
}

impl Store for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn begin<'a>(&'a self, key: &'a SessionKey) -> Work<'a, Option<Begun>> {
        Box::pin(async move {
            // Known before anything is generated that could not be kept.
            if self.writer.trouble().is_some() {
                return Err(self.writer.failed());
            }
            let Some(lock) = self.locks.take(key)? else {
                return Ok(None);
            };
            let (raw, forgotten) = self.raw(key).await?;
            Ok(Some(Begun {
                records: self.decode(key, raw)?,
                lease: Lease::File { lock, forgotten },
                place: self.name().into(),
            }))
        })
    }

    fn append<'a>(
        &'a self,
        key: &'a SessionKey,
        lease: Lease,
        addition: Addition,
    ) -> Work<'a, (Stored, Place)> {
        Box::pin(async move {
            let seen = match &lease {
                Lease::File { forgotten, .. } => *forgotten,
                _ => 0,
            };
            let (key, (at, bytes)) = (key.clone(), self.encode(key, &addition.record)?);
            let expected = addition.expects();
            let append =
                move |tables: &mut Tables<'_>| tables.append(&key, expected, (at, &bytes), seen);
            let stored = self.writer.change(append).await?;
            // Until then nobody else may write.
            drop(lease);
            Ok((stored, self.name().into()))
        })
    }

    fn release<'a>(&'a self, _: &'a SessionKey, lease: Lease) -> BoxFuture<'a, ()> {
        drop(lease);
        Box::pin(ready(()))
    }

    fn load<'a>(&'a self, key: &'a SessionKey) -> Work<'a, Records> {
        Box::pin(async move { self.decode(key, self.raw(key).await?.0) })
    }

    fn forget<'a>(&'a self, key: &'a SessionKey) -> Work<'a, bool> {
        Box::pin(async move {
            let key = key.clone();
            self.writer.change(move |tables| tables.forget(&key)).await
        })
    }

    fn list<'a>(
        &'a self,
        after: Option<String>,
        limit: usize,
    ) -> Work<'a, (Vec<SessionKey>, Option<String>)> {
        Box::pin(async move {
            self.read(move |database| tables::list(database, after.as_deref(), limit))
                .await
        })
    }

    fn replace<'a>(&'a self, key: &'a SessionKey, lease: Lease, records: Records) -> Work<'a, ()> {
        Box::pin(async move {
            let encoded = records.iter().map(|record| self.encode(key, record));
            let raw = encoded.collect::<Result<Raw, _>>()?;
            let key = key.clone();
            let replace = move |tables: &mut Tables<'_>| tables.replace(&key, &raw);
            let done = self.writer.change(replace).await;
            drop(lease);
            done
        })
    }

    fn count(&self) -> Option<u64> {
        Some(self.writer.count())
    }

    fn trouble(&self) -> Option<String> {
        self.writer.trouble()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.writer.close())
    }
}

#[cfg(test)]
mod tests;
