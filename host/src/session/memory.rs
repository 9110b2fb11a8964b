//! Sessions in this process; gone with it.

use std::sync::Arc;

use futures::future::{BoxFuture, ready};
use moka::sync::Cache;

use super::settings::Settings;
use super::store::{Addition, Begun, Lease, Place, Records, Store, Stored, Work};
use crate::types::SessionKey;

/// One writer at a time is the line's business, so that reading and writing back is safe.
pub struct Memory {
    held: Cache<SessionKey, Arc<Records>>,
    max_exchanges: u32,
}

impl Memory {
    pub fn new(settings: &Settings) -> Self {
        let weigh = |key: &SessionKey, records: &Arc<Records>| {
            let bytes: usize = records.iter().map(|record| record.bytes()).sum();
            let name = key.tenant.as_str().len() + key.session.as_str().len();
            u32::try_from(name + bytes + 256).unwrap_or(u32::MAX)
        };
        Self {
            held: Cache::builder()
                .max_capacity(settings.max_bytes)
                .weigher(weigh)
                .time_to_live(settings.ttl)
                .build(),
            max_exchanges: settings.max_exchanges,
        }
    }

    pub fn get(&self, key: &SessionKey) -> Option<Records> {
        self.held.get(key).map(|records| Records::clone(&records))
    }

    pub fn set(&self, key: &SessionKey, records: Records) {
        self.held.insert(key.clone(), Arc::new(records));
    }

    pub fn remove(&self, key: &SessionKey) -> bool {
        self.held.remove(key).is_some()
    }

    pub fn add(&self, key: &SessionKey, addition: Addition) -> Stored {
        let mut records = self.get(key).unwrap_or_default();
        let stored = match records.is_empty() && addition.expects() > 0 {
            true => Stored::Anew,
            false => Stored::Kept,
        };
        let oldest = (addition.record.exchange + 1).saturating_sub(self.max_exchanges);
        addition.add_to(&mut records);
        records.retain(|record| record.exchange >= oldest);
        self.set(key, records);
        stored
    }
}

impl Store for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn begin<'a>(&'a self, key: &'a SessionKey) -> Work<'a, Option<Begun>> {
        let begun = Begun {
            records: self.get(key).unwrap_or_default(),
            lease: Lease::Ours,
            place: self.name().into(),
        };
        Box::pin(ready(Ok(Some(begun))))
    }

    fn append<'a>(
        &'a self,
        key: &'a SessionKey,
        _: Lease,
        addition: Addition,
    ) -> Work<'a, (Stored, Place)> {
        let stored = self.add(key, addition);
        Box::pin(ready(Ok((stored, self.name().into()))))
    }

    fn release<'a>(&'a self, _: &'a SessionKey, _: Lease) -> BoxFuture<'a, ()> {
        Box::pin(ready(()))
    }

    fn load<'a>(&'a self, key: &'a SessionKey) -> Work<'a, Records> {
        Box::pin(ready(Ok(self.get(key).unwrap_or_default())))
    }

    fn forget<'a>(&'a self, key: &'a SessionKey) -> Work<'a, bool> {
        Box::pin(ready(Ok(self.remove(key))))
    }

    fn list<'a>(
        &'a self,
        _: Option<String>,
        _: usize,
    ) -> Work<'a, (Vec<SessionKey>, Option<String>)> {
        let keys = self.held.iter().map(|(key, _)| SessionKey::clone(&key));
        Box::pin(ready(Ok((keys.collect(), None))))
    }

    fn replace<'a>(&'a self, key: &'a SessionKey, _: Lease, records: Records) -> Work<'a, ()> {
        self.set(key, records);
        Box::pin(ready(Ok(())))
    }

    fn count(&self) -> Option<u64> {
        Some(self.held.entry_count())
    }
}
