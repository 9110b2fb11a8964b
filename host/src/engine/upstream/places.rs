//! The slots of this engine: how many requests are at upstreams at once, and who waits for one of
//! them, first come, first served.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::engine::SlotStatus;

/// Shared by all requests.
#[derive(Clone)]
pub struct Places(Arc<Inner>);

struct Inner {
    books: Mutex<Books>,
    changed: Notify,
}

struct Books {
    slots: Vec<SlotStatus>,
    waiting: BTreeSet<u64>,
    next: u64,
}

/// A slot that is held; freed when dropped.
pub struct Place {
    pub slot: usize,
    places: Places,
}

/// A place in the queue; given up when dropped.
struct Ticket<'a> {
    number: u64,
    places: &'a Places,
}

fn idle(slot: usize) -> SlotStatus {
    SlotStatus {
        slot,
        state: "idle",
        session: None,
        prompt_tokens: 0,
        cached_tokens: 0,
        output_tokens: 0,
        tokens_per_second: 0.0,
    }
}

impl Places {
    pub fn new(slots: usize) -> Self {
        Self(Arc::new(Inner {
            books: Mutex::new(Books {
                slots: (0..slots).map(idle).collect(),
                waiting: BTreeSet::new(),
                next: 0,
            }),
            changed: Notify::new(),
        }))
    }

    /// Waits for a slot; `told` hears of the place in the queue whenever it changes.
    pub async fn enter(&self, mut told: impl FnMut(usize)) -> Place {
        let ticket = self.ticket();
        let mut last = None;
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Registered before the books are read, so that no change is missed in between.
            changed.as_mut().enable();
            match self.try_take(ticket.number) {
                Ok(slot) => {
                    return Place {
                        slot,
                        places: self.clone(),
                    };
                }
                Err(position) if last != Some(position) => {
                    last = Some(position);
                    told(position);
                }
                Err(_) => {}
            }
            changed.await;
        }
    }

    fn ticket(&self) -> Ticket<'_> {
        let mut books = self.books();
        let number = books.next;
        books.next += 1;
        books.waiting.insert(number);
        Ticket {
            number,
            places: self,
        }
    }

    /// A free slot for whoever is first, or how many are before.
    fn try_take(&self, number: u64) -> Result<usize, usize> {
        let mut books = self.books();
        let before = books.waiting.range(..number).count();
        let free = books.slots.iter().position(|slot| slot.state == "idle");
        match free {
            Some(slot) if before == 0 => {
                books.slots[slot].state = "prefill";
                Ok(slot)
            }
            _ => Err(before),
        }
    }

    /// All slots, and how many wait.
    pub fn status(&self) -> (Vec<SlotStatus>, usize) {
        let books = self.books();
        (books.slots.clone(), books.waiting.len())
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Whole at every moment: whoever panicked with the lock left it readable.
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Tells what the slot does.
    pub fn show(&self, change: impl FnOnce(&mut SlotStatus)) {
        change(&mut self.places.books().slots[self.slot]);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.show(|slot| *slot = idle(slot.slot));
        self.places.0.changed.notify_waiters();
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.places.books().waiting.remove(&self.number);
        self.places.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_came_first_gets_the_slot_and_places_are_told() {
        let places = Places::new(1);
        let first = places.enter(|_| {}).await;
        assert_eq!(places.status().0[0].state, "prefill");
        let told = Arc::new(Mutex::new(Vec::new()));
        let wait = |name: &'static str| {
            let (places, told) = (places.clone(), Arc::clone(&told));
            tokio::spawn(async move {
                let place = places
                    .enter(|at| told.lock().unwrap().push((name, at)))
                    .await;
                drop(place);
            })
        };
        let second = wait("second");
        while places.status().1 < 1 {
            tokio::task::yield_now().await;
        }
        let third = wait("third");
        while told.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*told.lock().unwrap(), [("second", 0), ("third", 1)]);
        drop(first);
        second.await.unwrap();
        third.await.unwrap();
        let (slots, waiting) = places.status();
        assert_eq!((slots[0].state, waiting), ("idle", 0));
    }

    #[tokio::test]
    async fn who_leaves_the_queue_blocks_nobody() {
        let places = Places::new(1);
        let held = places.enter(|_| {}).await;
        let leaves = places.clone();
        let leaving = tokio::spawn(async move { drop(leaves.enter(|_| {}).await) });
        while places.status().1 < 1 {
            tokio::task::yield_now().await;
        }
        leaving.abort();
        let _ = leaving.await;
        assert_eq!(places.status().1, 0);
        drop(held);
        drop(places.enter(|_| {}).await);
    }
}
