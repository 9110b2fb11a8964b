//! The trait behind which sessions lie, and what all stores share.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::error::SessionError;
use super::record::Record;
use super::redb::Lock;
use crate::redis::Redis;
use crate::types::SessionKey;

/// What a store's method gives back, in its own time.
pub type Work<'a, T> = BoxFuture<'a, Result<T, SessionError>>;

/// The exchanges of a session, oldest first.
pub type Records = Vec<Arc<Record>>;

/// A record on its way into a session.
#[derive(Clone)]
pub struct Addition {
    pub record: Arc<Record>,
    /// It takes the place of the last record, which has its number; otherwise it comes behind it.
    pub replaces: bool,
}

impl Addition {
    /// The number that comes next in a session where this may be added.
    pub fn expects(&self) -> u32 {
        self.record.exchange + u32::from(self.replaces)
    }

    /// Adds it to records in memory.
    pub fn add_to(self, records: &mut Records) {
        let Self { record, replaces } = self;
        if replaces {
            records.pop_if(|last| last.exchange == record.exchange);
        }
        records.push(record);
    }
}

/// The right to write to a session that others may share.
pub enum Lease {
    /// Only this process writes: the line in front of the store is enough.
    Ours,
    /// Other processes of this host may have the file open.
    File {
        lock: Lock,
        /// When the session was last forgotten, as the writer found it.
        forgotten: u64,
    },
    /// Held in the store under this token.
    Shared(Arc<str>),
    /// The store is in trouble: this process alone remembers.
    Local,
}

impl Lease {
    /// Whether it has to be given back by a request to the store.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }
}

pub struct Begun {
    pub records: Records,
    pub lease: Lease,
    pub place: Place,
}

/// Which store was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The configured store's name, or `local` while that is in trouble.
    pub store: &'static str,
    /// What went wrong with the configured one just now, in a fixed word.
    pub trouble: Option<&'static str>,
}

impl From<&'static str> for Place {
    fn from(store: &'static str) -> Self {
        Self {
            store,
            trouble: None,
        }
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Kept,
    /// Kept, but what was before it is gone: the store lost or dropped the session meanwhile.
    Anew,
    /// The session was forgotten after the writer began: nothing was kept.
    Forgotten,
    /// The lease was lost and somebody else has written since: nothing was kept.
    Taken,
}

/// Where sessions lie. An append is all or nothing, and is as durable as the store ever is when it
/// returns. Within this process only one request at a time writes to a session; a store that
/// several hosts share sees to that among them by leases.
pub trait Store: Send + Sync {
    fn name(&self) -> &'static str;

    /// The history and the right to add to it; `None` while another host has that right.
    fn begin<'a>(&'a self, key: &'a SessionKey) -> Work<'a, Option<Begun>>;

    /// Adds a record at its number, or puts it in the last one's place, and gives the lease back.
    /// Says in which store.
    fn append<'a>(
        &'a self,
        key: &'a SessionKey,
        lease: Lease,
        addition: Addition,
    ) -> Work<'a, (Stored, Place)>;

    /// Gives a lease back without having written.
    fn release<'a>(&'a self, key: &'a SessionKey, lease: Lease) -> BoxFuture<'a, ()>;

    fn load<'a>(&'a self, key: &'a SessionKey) -> Work<'a, Records>;

    /// Removes the session; tells whether there was one. Who has the lease will not write.
    fn forget<'a>(&'a self, key: &'a SessionKey) -> Work<'a, bool>;

    /// Up to about `limit` sessions in some order, from where `after` ended; the cursor of the
    /// next page, `None` after the last. A session that comes or goes meanwhile may be missing.
    fn list<'a>(
        &'a self,
        after: Option<String>,
        limit: usize,
    ) -> Work<'a, (Vec<SessionKey>, Option<String>)>;

    /// Takes the place of whatever is there. Called with the right to write, which it gives back.
    fn replace<'a>(&'a self, key: &'a SessionKey, lease: Lease, records: Records) -> Work<'a, ()>;

    fn count(&self) -> Option<u64>;

    /// The server that hosts share, where it is one.
    fn server(&self) -> Option<&Redis> {
        None
    }

    /// Standing trouble in one sentence.
    fn trouble(&self) -> Option<String> {
        None
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
