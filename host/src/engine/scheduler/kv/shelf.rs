//! Sequences that were copied to RAM, by session and by age.

use std::collections::{BTreeMap, HashMap};

use super::Parked;
use crate::engine::scheduler::plan::{Ticket, Time};
use crate::types::SessionKey;

/// What is parked. How much it is, and what was not used for longest, is known without a look at all
/// of it: with a small model that is many thousands.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    by_key: HashMap<SessionKey, Parked>,
    by_age: BTreeMap<(Time, Ticket), SessionKey>,
    tokens: usize,
}

impl Shelf {
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Of all sequences together.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    pub fn get(&self, key: &SessionKey) -> Option<&Parked> {
        self.by_key.get(key)
    }

    pub fn contains_key(&self, key: &SessionKey) -> bool {
        self.by_key.contains_key(key)
    }

    pub fn insert(&mut self, key: SessionKey, parked: Parked) {
        self.remove(&key);
        self.tokens += parked.tokens.len();
        self.by_age
            .insert((parked.used, parked.ticket), key.clone());
        self.by_key.insert(key, parked);
    }

    pub fn remove(&mut self, key: &SessionKey) -> Option<Parked> {
        let parked = self.by_key.remove(key)?;
        self.by_age.remove(&(parked.used, parked.ticket));
        self.tokens -= parked.tokens.len();
        Some(parked)
    }

    /// Whose sequence was not used for longest.
    pub fn oldest(&self) -> Option<&SessionKey> {
        self.by_age.values().next()
    }
}
