//! What one tenant may ask: so many requests in a minute, so many at a time.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Denied, Visit};
use crate::types::TenantId;

/// Limits of one tenant; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests in a minute, spread evenly once `burst` is used up.
    pub per_minute: u32,
    /// Requests that may come at once; 0: as many as `per_minute`.
    pub burst: u32,
    /// Requests that are answered or wait at the same time.
    pub concurrent: u32,
}

/// A tenant and what it has used up.
pub struct Tenant {
    id: TenantId,
    limits: Limits,
    rate: Option<DefaultDirectRateLimiter>,
    places: Option<Arc<Semaphore>>,
}

/// The right to be answered beside the tenant's other requests; free again when the last clone is
/// dropped.
#[derive(Clone, Debug, Default)]
pub struct Place {
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

impl Tenant {
    pub fn new(id: TenantId, limits: Limits) -> Self {
        let rate = NonZeroU32::new(limits.per_minute).map(|per_minute| {
            let burst = NonZeroU32::new(limits.burst).unwrap_or(per_minute);
            DefaultDirectRateLimiter::direct(Quota::per_minute(per_minute).allow_burst(burst))
        });
        let places =
            (limits.concurrent > 0).then(|| Arc::new(Semaphore::new(limits.concurrent as usize)));
        Self {
            id,
            limits,
            rate,
            places,
        }
    }

    pub fn id(&self) -> &TenantId {
        &self.id
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Counts a request for an answer.
    ///
    /// # Errors
    /// [`Denied::Concurrent`] and [`Denied::Rate`].
    pub fn enter(&self) -> Result<Visit, Denied> {
        // The place first: whoever waits for one should not use up its rate by trying.
        let permit = match &self.places {
            None => None,
            Some(places) => {
                let taken = Arc::clone(places).try_acquire_owned();
                let limit = self.limits.concurrent;
                Some(Arc::new(taken.map_err(|_| Denied::Concurrent { limit })?))
            }
        };
        if let Some(rate) = &self.rate
            && let Err(early) = rate.check()
        {
            let wait = early.wait_time_from(DefaultClock::default().now());
            return Err(Denied::Rate {
                per_minute: self.limits.per_minute,
                // People read it: tenths are enough.
                wait: Duration::from_millis(
                    u64::try_from(wait.as_millis())
                        .unwrap_or(0)
                        .next_multiple_of(100),
                ),
            });
        }
        Ok(Visit {
            tenant: self.id.clone(),
            place: Place { _permit: permit },
        })
    }
}
