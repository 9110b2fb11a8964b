//! How many connections an address holds at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The connections of one address, and how many there may be.
#[derive(Debug)]
pub struct Room {
    most: usize,
    open: AtomicUsize,
    refused: AtomicU64,
}

/// A connection that is inside; it makes room when it is dropped.
pub(super) struct Seat(Arc<Room>);

impl Room {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            open: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        })
    }

    pub fn most(&self) -> usize {
        self.most
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Connections for which there was no room.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Lets one more in; `None`, and counted, where there is no room.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Seat> {
        let one_more = |open| (open < self.most).then_some(open + 1);
        match self.open.fetch_update(Relaxed, Relaxed, one_more) {
            Ok(_) => Some(Seat(Arc::clone(self))),
            Err(_) => {
                self.refused.fetch_add(1, Relaxed);
                None
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_makes_room_for_one() {
        let room = Room::new(2);
        let (first, second) = (room.enter(), room.enter());
        assert!(first.is_some() && second.is_some() && room.enter().is_none());
        assert_eq!((room.open(), room.refused()), (2, 1));
        drop(first);
        let third = room.enter();
        assert!(third.is_some() && room.enter().is_none());
        drop((second, third));
        assert_eq!((room.open(), room.refused()), (0, 2));
    }
}
