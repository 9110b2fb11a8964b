//! Instances made ahead. A request takes one, uses it and hands it to the janitor, who drops it
//! and makes a new one: neither costs the request anything.

use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fault::RunError;
use super::guest::{Instance, Template};

/// Used instances that may wait for the janitor. When requests use them faster than he drops
/// them, each drops its own, or they would pile up until none can be had.
const CHORES: usize = 32;
/// How long the janitor leaves a request alone that has just used an instance: its next calls come
/// right after, and his work next to them costs them more than it spares (each page given back
/// interrupts every other processor of this process).
const RESPITE: Duration = Duration::from_millis(1);
/// Instances beyond `limits.instances` that are the reconciler's own: it must be able to try a
/// policy, and to bring back an older one, however busy requests are.
pub(super) const RESERVE: u32 = 1;
/// How long instances are made in one go: a policy that takes its time to get ready must not keep what
/// else is to be done waiting, such as the way back from a policy that fails.
const GO: Duration = Duration::from_millis(250);
/// How long a request waits for an instance when all are in use.
const PATIENCE: Duration = Duration::from_millis(500);

/// The warm instances of one revision.
pub(super) struct Pool {
    pub template: Template,
    ready: Mutex<Vec<Instance>>,
    crew: Crew,
}

/// Bounds how many instances live, and owns the thread that makes and drops them.
#[derive(Clone)]
pub(super) struct Crew {
    permits: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    limit: u32,
    chores: mpsc::SyncSender<Chore>,
}

pub(super) struct Janitor(Option<JoinHandle<()>>);

enum Chore {
    /// Drop the used instance, then fill the pool it came from.
    Replace(Instance, Weak<Pool>),
    /// Go on filling the pool.
    Fill(Weak<Pool>),
    Stop,
}

impl Crew {
    pub(super) fn hire(limit: u32) -> std::io::Result<(Self, Janitor)> {
        let (chores, inbox) = mpsc::sync_channel(CHORES);
        let thread = std::thread::Builder::new()
            .name("stent-instances".into())
            .spawn(move || clean(&inbox))?;
        let permits = Arc::new(Semaphore::new(limit as usize));
        Ok((
            Self {
                permits,
                reserve: Arc::new(Semaphore::new(RESERVE as usize)),
                limit,
                chores,
            },
            Janitor(Some(thread)),
        ))
    }

    /// Waits a moment; fails when all instances stay in use.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, RunError> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        if tokio::runtime::Handle::try_current().is_err() {
            // Golden cases run on the reconciler's thread, which has no timer to wait with.
            return self.permit_patiently();
        }
        match tokio::time::timeout(PATIENCE, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(RunError::Exhausted { limit: self.limit }),
        }
    }

    /// For the reconciler, which may wait on its own thread.
    pub(super) fn permit_patiently(&self) -> Result<OwnedSemaphorePermit, RunError> {
        let start = Instant::now();
        loop {
            let reserved = || self.reserve.clone().try_acquire_owned();
            match self.permit_now().or_else(|e| reserved().map_err(|_| e)) {
                Err(_) if start.elapsed() < 4 * PATIENCE => std::thread::sleep(PATIENCE / 100),
                done => return done,
            }
        }
    }

    fn permit_now(&self) -> Result<OwnedSemaphorePermit, RunError> {
        let permit = self.permits.clone().try_acquire_owned();
        permit.map_err(|_| RunError::Exhausted { limit: self.limit })
    }

    /// Ends the janitor once all chores before are done.
    pub(super) fn dismiss(&self, mut janitor: Janitor) {
        let _ = self.chores.send(Chore::Stop);
        if let Some(thread) = janitor.0.take() {
            // A panicked janitor leaves instances to be dropped with their pools.
            let _ = thread.join();
        }
    }
}

/// The janitor's whole life.
fn clean(inbox: &mpsc::Receiver<Chore>) {
    let mut at_ease = true;
    while let Ok(first) = inbox.recv() {
        if at_ease {
            std::thread::sleep(RESPITE);
        }
        at_ease = true;
        for chore in std::iter::once(first).chain(inbox.try_iter()) {
            let pool = match chore {
                Chore::Replace(used, pool) => {
                    drop(used);
                    pool
                }
                Chore::Fill(pool) => pool,
                Chore::Stop => return,
            };
            if let Some(pool) = pool.upgrade() {
                // Under load he goes on without a pause.
                at_ease &= pool.is_well_stocked();
                pool.stock();
            }
        }
    }
}

impl Pool {
    pub(super) fn new(template: Template, crew: Crew) -> Arc<Self> {
        Arc::new(Self {
            template,
            ready: Mutex::default(),
            crew,
        })
    }

    /// A configured instance, from the warm ones if there is one; else `cold` hears of it.
    pub(super) async fn take(&self, cold: impl FnOnce()) -> Result<Instance, RunError> {
        if let Some(instance) = self.lock().pop() {
            return Ok(instance);
        }
        cold();
        let permit = self.crew.permit().await?;
        self.template.configured(permit).await
    }

    /// The end of an instance's only use.
    pub(super) fn spent(self: &Arc<Self>, instance: Instance) {
        let chore = Chore::Replace(instance, Arc::downgrade(self));
        // Refused where the janitor is behind or gone: then the instance is dropped right here.
        let _ = self.crew.chores.try_send(chore);
    }

    fn is_well_stocked(&self) -> bool {
        2 * self.lock().len() >= self.template.limits.warm
    }

    /// Makes instances for a moment; the janitor makes the rest, turn and turn about with other work.
    pub(super) fn stock(self: &Arc<Self>) {
        if !self.fill_for(GO) {
            // Where he is behind, the next used instance has him fill the pool.
            let _ = self.crew.chores.try_send(Chore::Fill(Arc::downgrade(self)));
        }
    }

    /// Makes instances until enough are warm, or none can be had for now.
    pub(super) fn fill(&self) {
        self.fill_for(Duration::MAX);
    }

    /// Whether no more are to be made.
    fn fill_for(&self, time: Duration) -> bool {
        let start = Instant::now();
        while self.lock().len() < self.template.limits.warm {
            if start.elapsed() > time {
                return false;
            }
            let Ok(permit) = self.crew.permit_now() else {
                return true;
            };
            let made = futures::executor::block_on(self.template.configured(permit));
            match made {
                Ok(instance) => self.lock().push(instance),
                // A request will meet the same fault, and report it.
                Err(_) => return true,
            }
        }
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Instance>> {
        // Nothing is left half done under this lock.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
