//! One writer per session within this process: whoever comes second stands in line.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::error::SessionError;
use crate::types::SessionKey;

type Places = Mutex<HashMap<SessionKey, Arc<Place>>>;

/// The sessions that somebody writes to or waits for; no others take memory.
#[derive(Default)]
pub struct Line(Arc<Places>);

#[derive(Default)]
struct Place {
    /// Fair: first come, first served.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// How often the session was forgotten while somebody stood here.
    forgotten: AtomicU64,
}

/// A turn to write; the next in line gets it when this is dropped.
pub struct Ticket {
    turn: Option<OwnedMutexGuard<()>>,
    watch: Watch,
}

/// Sees whether a session is forgotten, from when a turn to write came, and longer than that turn.
#[derive(Clone)]
pub struct Watch {
    place: Standing,
    /// `forgotten` when the turn came.
    seen: u64,
}

/// A reference to a place that leaves none behind when it is the last one.
#[derive(Clone)]
struct Standing {
    places: Arc<Places>,
    key: SessionKey,
    place: Option<Arc<Place>>,
}

impl Line {
    /// Waits for the turn, for so long at most.
    pub async fn wait(&self, key: &SessionKey, patience: Duration) -> Result<Ticket, SessionError> {
        let place = Arc::clone(locked(&self.0).entry(key.clone()).or_default());
        let turn = Arc::clone(&place.turn);
        // Made before anything is waited for: a request that is given up leaves by it.
        let standing = Standing {
            places: Arc::clone(&self.0),
            key: key.clone(),
            place: Some(Arc::clone(&place)),
        };
        let busy = SessionError::Busy { waited: patience };
        let turn = match Arc::clone(&turn).try_lock_owned() {
            Ok(turn) => turn,
            Err(_) if patience.is_zero() => return Err(busy),
            Err(_) => tokio::time::timeout(patience, turn.lock_owned())
                .await
                .map_err(|_| busy)?,
        };
        Ok(Ticket {
            turn: Some(turn),
            watch: Watch {
                seen: place.forgotten.load(Ordering::SeqCst),
                place: standing,
            },
        })
    }

    /// Tells whoever has the turn, or had it and still watches, that the session is no more.
    pub fn forget(&self, key: &SessionKey) {
        if let Some(place) = locked(&self.0).get(key) {
            place.forgotten.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        locked(&self.0).len()
    }
}

impl Ticket {
    /// Whether the session was forgotten since the turn came.
    pub fn forgotten(&self) -> bool {
        self.watch.forgotten()
    }

    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }
}

impl Watch {
    /// Whether the session was forgotten since.
    pub fn forgotten(&self) -> bool {
        let place = self.place.place.as_ref();
        place.is_some_and(|place| place.forgotten.load(Ordering::SeqCst) != self.seen)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Before the place is left, so that it is empty when the last one looks.
        drop(self.turn.take());
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let mut places = locked(&self.places);
        drop(self.place.take());
        if places
            .get(&self.key)
            .is_some_and(|place| Arc::strong_count(place) == 1)
        {
            places.remove(&self.key);
        }
    }
}

/// A poisoned lock is taken all the same: every change under it is one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{SessionId, TenantId};

    #[tokio::test]
    async fn who_leaves_gives_the_turn_on_and_an_empty_place_takes_no_memory() {
        let line = Line::default();
        let key = SessionKey {
            tenant: TenantId::default(),
            session: SessionId::parse("s").unwrap(),
        };
        let first = line.wait(&key, Duration::ZERO).await.unwrap();
        assert!(line.wait(&key, Duration::ZERO).await.is_err());
        let patience = Duration::from_secs(30);
        let mut second = Box::pin(line.wait(&key, patience));
        assert!(futures::poll!(&mut second).is_pending());
        line.forget(&key);
        assert!(first.forgotten());
        drop(first);
        let second = second.await.unwrap();
        assert!(!second.forgotten(), "what comes after is another matter");
        let watch = second.watch();
        // One that is given up leaves the line as well.
        drop(line.wait(&key, patience));
        drop(second);
        assert!(!watch.forgotten());
        line.forget(&key);
        assert!(watch.forgotten(), "its turn is over, and it is told");
        drop(watch);
        assert_eq!(line.len(), 0);
    }
}
