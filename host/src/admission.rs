//! How many requests may be in the engine or waiting for it: the only queue bound there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Semaphore;

use crate::error::Error;
use crate::types::SlotPermit;

/// Hands out `slots + queue` permits. Whoever gets none is told at once (429), before the head.
pub struct Admission {
    permits: Arc<Semaphore>,
    slots: usize,
    limit: AtomicUsize,
}

impl Admission {
    pub fn new(slots: usize, queue: usize) -> Self {
        let limit = slots + queue;
        Self {
            permits: Arc::new(Semaphore::new(limit)),
            slots,
            limit: AtomicUsize::new(limit),
        }
    }

    /// # Errors
    /// [`Error::Overloaded`] when all permits are taken, [`Error::Unavailable`] while draining.
    pub fn enter(&self) -> Result<SlotPermit, Error> {
        use tokio::sync::TryAcquireError::{Closed, NoPermits};
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => Ok(SlotPermit::new(permit)),
            Err(NoPermits) => Err(Error::Overloaded {
                waiting: self.taken(),
                limit: self.limit.load(Relaxed),
            }),
            Err(Closed) => Err(Error::Unavailable("the server is shutting down".into())),
        }
    }

    /// Running and waiting requests that there may be.
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Requests that are answered at the same time.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Permits in use: running and waiting requests.
    pub fn taken(&self) -> usize {
        let limit = self.limit.load(Relaxed);
        limit.saturating_sub(self.permits.available_permits())
    }

    /// The place of whoever enters behind `taken` others: 0 where a slot is free, 1 is the next to
    /// get one.
    pub fn place(&self, taken: usize) -> usize {
        (taken + 1).saturating_sub(self.slots)
    }

    /// Another number of permits. Those that are taken are not taken back: with fewer of them,
    /// nobody enters before enough have left. Call it in a runtime.
    pub fn resize(&self, limit: usize) {
        let before = self.limit.swap(limit, Relaxed);
        if limit >= before {
            return self.permits.add_permits(limit - before);
        }
        let (permits, surplus) = (Arc::clone(&self.permits), before - limit);
        let surplus = u32::try_from(surplus).unwrap_or(u32::MAX);
        tokio::spawn(async move {
            if let Ok(taken) = permits.acquire_many_owned(surplus).await {
                taken.forget();
            }
        });
    }

    /// From now on nobody enters; those inside finish.
    pub fn close(&self) {
        self.permits.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_permit_after_the_last_is_refused_and_comes_back() {
        let admission = Admission::new(1, 1);
        let first = admission.enter().unwrap();
        let _second = admission.enter().unwrap();
        assert!(matches!(
            admission.enter(),
            Err(Error::Overloaded {
                waiting: 2,
                limit: 2
            })
        ));
        drop(first);
        assert!(admission.enter().is_ok());
    }

    #[tokio::test]
    async fn the_limit_can_change_while_permits_are_out() {
        let admission = Admission::new(1, 2);
        let (first, second) = (admission.enter().unwrap(), admission.enter().unwrap());
        admission.resize(1);
        while admission.permits.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(admission.enter().is_err(), "two are inside, one may be");
        drop(first);
        while admission.permits.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(admission.enter().is_err());
        drop(second);
        while admission.enter().is_err() {
            tokio::task::yield_now().await;
        }
        admission.resize(3);
        let inside: Vec<_> = (0..3).map(|_| admission.enter().unwrap()).collect();
        assert_eq!(inside.len(), 3);
        assert!(admission.enter().is_err());
    }

    #[test]
    fn closing_refuses_newcomers_with_another_word() {
        let admission = Admission::new(1, 0);
        admission.close();
        assert!(matches!(admission.enter(), Err(Error::Unavailable(_))));
    }
}
