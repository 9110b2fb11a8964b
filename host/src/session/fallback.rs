//! `on_store_failure = "local"`: while Redis cannot be used, this host remembers by itself, and
//! hands over what it has when Redis is back.
//!
//! What this host last saw of a session is kept beside Redis, so that a conversation goes on where
//! it was; what was added meanwhile is kept until it is handed over, or until this process ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::future::BoxFuture;

use super::error::SessionError;
use super::memory::Memory;
use super::redis::Shared;
use super::settings::Settings;
use super::store::{Addition, Begun, Lease, Place, Records, Store, Stored, Work};
use crate::redis::Redis;
use crate::types::SessionKey;

/// How often it is tried to hand over.
const PAUSE: Duration = Duration::from_millis(500);

pub struct Fallback {
    redis: Shared,
    /// Sessions as this host last saw them, its own additions included.
    seen: Memory,
    /// What Redis does not have yet.
    owed: Mutex<Owed>,
    /// The most that may be owed, in bytes: what was told to be finished is not dropped, so that
    /// more is refused.
    max_bytes: u64,
}

#[derive(Default)]
struct Owed {
    additions: HashMap<SessionKey, Vec<Addition>>,
    bytes: u64,
}

impl Owed {
    fn add(&mut self, key: &SessionKey, addition: Addition) {
        self.bytes += addition.record.bytes() as u64;
        let additions = self.additions.entry(key.clone()).or_default();
        match additions.last_mut() {
            // What was to be handed over is no more: this is, in its stead.
            Some(last) if addition.replaces && last.record.exchange == addition.record.exchange => {
                self.bytes = self.bytes.saturating_sub(last.record.bytes() as u64);
                last.record = addition.record;
            }
            _ => additions.push(addition),
        }
    }

    fn of(&self, key: &SessionKey) -> Vec<Addition> {
        self.additions.get(key).cloned().unwrap_or_default()
    }

    /// Redis has this one now.
    fn paid(&mut self, key: &SessionKey, paid: &Addition) {
        let Some(additions) = self.additions.get_mut(key) else {
            return;
        };
        let before = additions.len();
        additions.retain(|other| !Arc::ptr_eq(&other.record, &paid.record));
        let gone = (before - additions.len()) * paid.record.bytes();
        self.bytes = self.bytes.saturating_sub(gone as u64);
        if additions.is_empty() {
            self.additions.remove(key);
        }
    }

    /// Tells whether there was anything.
    fn forget(&mut self, key: &SessionKey) -> bool {
        let Some(additions) = self.additions.remove(key) else {
            return false;
        };
        let gone: usize = additions.iter().map(|added| added.record.bytes()).sum();
        self.bytes = self.bytes.saturating_sub(gone as u64);
        true
    }
}

/// Here, because of that.
fn local(trouble: Option<&'static str>) -> Place {
    Place {
        store: "local",
        trouble,
    }
}

/// Whether the store is the reason: other errors are the same anywhere.
fn is_trouble(error: &SessionError) -> bool {
    error.trouble().is_some()
}

impl Fallback {
    pub fn over(redis: Shared, settings: &Settings) -> Arc<Self> {
        let this = Arc::new(Self {
            redis,
            seen: Memory::new(settings),
            owed: Mutex::default(),
            max_bytes: settings.max_bytes,
        });
        tokio::spawn(hand_over(Arc::downgrade(&this)));
        this
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, key: &SessionKey, addition: Addition) -> Stored {
        self.owed().add(key, addition.clone());
        self.seen.add(key, addition)
    }

    /// Adds what Redis does not have of this session, behind what it has; the lease is taken for
    /// it and given back. `false`: another host writes there just now.
    async fn settle(&self, key: &SessionKey) -> Result<bool, SessionError> {
        while let Some(owed) = self.first_owed(key) {
            let Some(begun) = self.redis.begin(key).await? else {
                return Ok(false);
            };
            // It was carried out after all, and only the answer was lost.
            let mut records = begun.records.iter();
            if records.any(|there| **there == owed.record.renumbered(there.exchange)) {
                self.redis.release(key, begun.lease).await;
                self.owed().paid(key, &owed);
                continue;
            }
            let addition = behind(&begun.records, &owed);
            match self.redis.append(key, begun.lease, addition).await?.0 {
                // Somebody wrote there meanwhile: once more, behind that.
                Stored::Taken => {}
                Stored::Kept | Stored::Anew | Stored::Forgotten => self.owed().paid(key, &owed),
            }
        }
        Ok(true)
    }

    /// A function of its own: the lock must not be held while the record is sent.
    fn first_owed(&self, key: &SessionKey) -> Option<Addition> {
        self.owed().additions.get(key)?.first().cloned()
    }

    /// What this host knows of a session while Redis is in trouble.
    fn local(&self, key: &SessionKey, trouble: SessionError) -> Result<Begun, SessionError> {
        if self.owed().bytes >= self.max_bytes {
            return Err(trouble);
        }
        Ok(Begun {
            records: self.seen.get(key).unwrap_or_default(),
            lease: Lease::Local,
            place: local(Some(trouble.kind())),
        })
    }
}

/// What is owed as it can be added to what Redis has now.
fn behind(records: &Records, owed: &Addition) -> Addition {
    match records.last() {
        // A session that Redis lost goes on under its own numbers.
        None => owed.clone(),
        Some(last) if owed.replaces && last.exchange == owed.record.exchange => owed.clone(),
        // Where another host has gone on behind what was to be replaced, that stays.
        Some(last) => Addition {
            record: Arc::new(owed.record.renumbered(last.exchange + 1)),
            replaces: false,
        },
    }
}

/// Sessions that nobody asks for are handed over too.
async fn hand_over(weak: Weak<Fallback>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(this) = weak.upgrade() else { return };
        if !this.redis.is_healthy() {
            continue;
        }
        let keys: Vec<_> = this.owed().additions.keys().cloned().collect();
        let mut settled = 0;
        for key in &keys {
            match this.settle(key).await {
                Ok(true) => settled += 1,
                Ok(false) => {}
                Err(error) if is_trouble(&error) => break,
                Err(error) => tracing::warn!(%error, "a session could not be handed over to Redis"),
            }
        }
        if settled > 0 {
            tracing::info!(sessions = settled, "handed over to Redis");
        }
    }
}

impl Store for Fallback {
    fn name(&self) -> &'static str {
        self.redis.name()
    }

    fn begin<'a>(&'a self, key: &'a SessionKey) -> Work<'a, Option<Begun>> {
        Box::pin(async move {
            let settled = match self.settle(key).await {
                Ok(false) => return Ok(None),
                other => other,
            };
            let begun = match settled {
                Ok(_) => self.redis.begin(key).await,
                Err(error) => Err(error),
            };
            match begun {
                Ok(Some(begun)) => {
                    self.seen.set(key, begun.records.clone());
                    Ok(Some(begun))
                }
                Err(error) if is_trouble(&error) => self.local(key, error).map(Some),
                other => other,
            }
        })
    }

    fn append<'a>(
        &'a self,
        key: &'a SessionKey,
        lease: Lease,
        addition: Addition,
    ) -> Work<'a, (Stored, Place)> {
        Box::pin(async move {
            if matches!(lease, Lease::Local) {
                // What kept Redis from being used was told when the turn began.
                return Ok((self.remember(key, addition), local(None)));
            }
            match self.redis.append(key, lease, addition.clone()).await {
                Ok((stored, place)) => {
                    if matches!(stored, Stored::Kept | Stored::Anew) {
                        self.seen.add(key, addition);
                    }
                    Ok((stored, place))
                }
                Err(error) if is_trouble(&error) => {
                    let place = local(Some(error.kind()));
                    Ok((self.remember(key, addition), place))
                }
                Err(error) => Err(error),
            }
        })
    }

    fn release<'a>(&'a self, key: &'a SessionKey, lease: Lease) -> BoxFuture<'a, ()> {
        self.redis.release(key, lease)
    }

    fn load<'a>(&'a self, key: &'a SessionKey) -> Work<'a, Records> {
        Box::pin(async move {
            match self.redis.load(key).await {
                Ok(mut records) => {
                    for owed in self.owed().of(key) {
                        owed.add_to(&mut records);
                    }
                    Ok(records)
                }
                Err(error) if is_trouble(&error) => Ok(self.seen.get(key).unwrap_or_default()),
                Err(error) => Err(error),
            }
        })
    }

    fn forget<'a>(&'a self, key: &'a SessionKey) -> Work<'a, bool> {
        Box::pin(async move {
            // What this host holds is gone at once; that Redis still has the rest must be told.
            let owed = self.owed().forget(key);
            self.seen.remove(key);
            Ok(self.redis.forget(key).await? || owed)
        })
    }

    fn list<'a>(
        &'a self,
        after: Option<String>,
        limit: usize,
    ) -> Work<'a, (Vec<SessionKey>, Option<String>)> {
        self.redis.list(after, limit)
    }

    fn replace<'a>(&'a self, key: &'a SessionKey, lease: Lease, records: Records) -> Work<'a, ()> {
        self.redis.replace(key, lease, records)
    }

    fn count(&self) -> Option<u64> {
        self.redis.count()
    }

    fn server(&self) -> Option<&Redis> {
        self.redis.server()
    }

    fn trouble(&self) -> Option<String> {
        self.redis.trouble()
    }
}
