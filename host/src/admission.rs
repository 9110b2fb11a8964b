//! How many requests may be in the engine or waiting for it: the only queue bound there is.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::Error;
use crate::types::SlotPermit;

/// Hands out `slots + queue` permits. Whoever gets none is told at once (429), before the head.
pub struct Admission {
    permits: Arc<Semaphore>,
    slots: usize,
    limit: usize,
}

impl Admission {
    pub fn new(slots: usize, queue: usize) -> Self {
        let limit = slots + queue;
        Self {
            permits: Arc::new(Semaphore::new(limit)),
            slots,
            limit,
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
                limit: self.limit,
            }),
            Err(Closed) => Err(Error::Unavailable("the server is shutting down".into())),
        }
    }

    /// Running and waiting requests that there may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Permits in use: running and waiting requests.
    pub fn taken(&self) -> usize {
        self.limit - self.permits.available_permits()
    }

    /// The place of whoever enters behind `taken` others: 0 where a slot is free, 1 is the next to
    /// get one.
    pub fn place(&self, taken: usize) -> usize {
        (taken + 1).saturating_sub(self.slots)
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

    #[test]
    fn closing_refuses_newcomers_with_another_word() {
        let admission = Admission::new(1, 0);
        admission.close();
        assert!(matches!(admission.enter(), Err(Error::Unavailable(_))));
    }
}
