//! Answers in this process, weighed in bytes.

use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache as Moka;

use super::{Cached, Key};
use crate::types::Token;

pub struct Memory(Moka<Key, Entry>);

#[derive(Clone)]
struct Entry {
    answer: Cached,
    stored: Instant,
    ttl: Duration,
}

/// What an entry takes, with what the cache itself needs to find it.
fn bytes(entry: &Entry) -> usize {
    const FIXED: usize = size_of::<Key>() + size_of::<Entry>() + 160;
    let answer = &entry.answer;
    answer.text.len() + answer.tokens.len() * size_of::<Token>() + FIXED
}

struct Ttl;

impl Expiry<Key, Entry> for Ttl {
    fn expire_after_create(&self, _: &Key, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.ttl)
    }

    /// An answer that takes another's place lives by its own time.
    fn expire_after_update(
        &self,
        _: &Key,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.ttl)
    }
}

impl Memory {
    pub fn new(max_bytes: u64) -> Self {
        let weigh = |_: &Key, entry: &Entry| u32::try_from(bytes(entry)).unwrap_or(u32::MAX);
        Self(
            Moka::builder()
                .max_capacity(max_bytes)
                .weigher(weigh)
                .expire_after(Ttl)
                .build(),
        )
    }

    /// The answer and its age.
    pub fn get(&self, key: &Key) -> Option<(Cached, Duration)> {
        let entry = self.0.get(key)?;
        let age = entry.stored.elapsed();
        Some((entry.answer, age))
    }

    pub fn put(&self, key: Key, answer: Cached, ttl: Duration) {
        let stored = Instant::now();
        self.0.insert(
            key,
            Entry {
                answer,
                stored,
                ttl,
            },
        );
        // moka would make room a little later; answers come seldom enough to do it now.
        self.0.run_pending_tasks();
    }

    pub fn clear(&self) {
        self.0.invalidate_all();
        self.0.run_pending_tasks();
    }

    /// Answers and bytes, as moka counts them.
    pub fn held(&self) -> (u64, u64) {
        (self.0.entry_count(), self.0.weighted_size())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::answer;
    use super::*;

    /// Four writers at once; what is held is measured entry by entry while they write.
    #[test]
    fn the_bytes_held_stay_under_the_limit_under_load() {
        const LIMIT: u64 = 200_000;
        let cache = Memory::new(LIMIT);
        let measure = || {
            cache
                .0
                .iter()
                .map(|(_, entry)| bytes(&entry))
                .sum::<usize>() as u64
        };
        let largest = Entry {
            answer: answer(&"x".repeat(2_000)),
            stored: Instant::now(),
            ttl: Duration::from_secs(1),
        };
        // Each writer may have put in one answer for which room is being made.
        let under_way = 4 * bytes(&largest) as u64;
        std::thread::scope(|scope| {
            let writers = [0_u8, 1, 2, 3].map(|writer| {
                let cache = &cache;
                scope.spawn(move || {
                    for n in 0..2_000_u16 {
                        let mut key = [writer; 32];
                        key[..2].copy_from_slice(&n.to_le_bytes());
                        let text = "x".repeat(usize::from(n % 2_000));
                        cache.put(Key(key), answer(&text), Duration::from_secs(60));
                    }
                })
            });
            while writers.iter().any(|writer| !writer.is_finished()) {
                let held = measure();
                assert!(held <= LIMIT + under_way, "{held} bytes");
            }
        });
        let held = measure();
        assert!(held > LIMIT / 2 && held <= LIMIT, "{held} bytes");
        assert_eq!(cache.held().1, held, "what the metric tells");
    }
}
