//! An answer that is kept while it is written, so that a lost connection does not lose it: any
//! number of readers, each from the start, one after another or at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::Part;
use crate::error::Error;
use crate::types::{Likely, Logprob};

/// How an answer is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// It is written on for so long while nobody reads it.
    pub window: Duration,
    /// Most bytes of it that are held; the oldest go first.
    pub bytes: usize,
}

/// What an answer has said so far.
pub struct Recording {
    keep: Keep,
    log: Mutex<Log>,
    news: Notify,
    readers: watch::Sender<Readers>,
    /// Somebody pressed stop.
    stop: CancellationToken,
}

/// How many read, and since when it is so.
#[derive(Clone, Copy)]
struct Readers {
    count: usize,
    since: Instant,
}

#[derive(Default)]
struct Log {
    parts: VecDeque<Part>,
    /// Number of the first part that is held.
    first: usize,
    bytes: usize,
    /// When it was complete.
    ended: Option<Instant>,
}

/// What one reader sees of a recording, from its start.
pub struct Reading {
    recording: Arc<Recording>,
    next: usize,
}

impl Recording {
    pub fn new(keep: Keep) -> Arc<Self> {
        Arc::new(Self {
            keep,
            log: Mutex::default(),
            news: Notify::new(),
            readers: watch::Sender::new(Readers {
                count: 0,
                since: Instant::now(),
            }),
            stop: CancellationToken::new(),
        })
    }

    /// A reader from the start.
    pub fn read(self: &Arc<Self>) -> Reading {
        self.readers.send_modify(|readers| {
            readers.count += 1;
            readers.since = Instant::now();
        });
        Reading {
            recording: Arc::clone(self),
            next: 0,
        }
    }

    /// All parts, when it is complete and nothing was dropped.
    pub fn complete(&self) -> Option<Vec<Part>> {
        let log = self.locked();
        let all = log.ended.is_some() && log.first == 0;
        all.then(|| log.parts.iter().cloned().collect())
    }

    /// Whether its beginning is still held.
    pub fn is_whole(&self) -> bool {
        self.locked().first == 0
    }

    pub fn ended(&self) -> Option<Instant> {
        self.locked().ended
    }

    pub fn bytes(&self) -> usize {
        self.locked().bytes
    }

    /// Ends the work, whoever reads.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(super) fn push(&self, part: Part) {
        let mut log = self.locked();
        log.bytes += size(&part);
        log.parts.push_back(part);
        while log.bytes > self.keep.bytes
            && let Some(oldest) = log.parts.pop_front()
        {
            log.bytes -= size(&oldest);
            log.first += 1;
        }
        drop(log);
        self.news.notify_waiters();
    }

    pub(super) fn end(&self) {
        self.locked().ended.get_or_insert_with(Instant::now);
        self.news.notify_waiters();
    }

    /// Resolves when it was stopped, or when nobody has read it for the whole window. Whoever waits
    /// for other things too may begin anew: the window runs on.
    pub(super) async fn abandoned(&self) {
        let mut readers = self.readers.subscribe();
        let unread = async {
            loop {
                // The sender is ours: it cannot be gone.
                let _ = readers.wait_for(|readers| readers.count == 0).await;
                let end = readers.borrow_and_update().since + self.keep.window;
                let back = readers.wait_for(|readers| readers.count > 0);
                if tokio::time::timeout_at(end.into(), back).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = unread => {}
        }
    }

    fn locked(&self) -> MutexGuard<'_, Log> {
        // Whole at every moment: whoever panicked with the lock left it readable.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    /// The next part; `None` when the writer went away in the middle.
    pub(super) async fn next(&mut self) -> Option<Part> {
        loop {
            let news = self.recording.news.notified();
            tokio::pin!(news);
            // Registered before the log is looked at, so that no news is missed in between.
            news.as_mut().enable();
            {
                let log = self.recording.locked();
                let Some(at) = self.next.checked_sub(log.first) else {
                    let bytes = self.recording.keep.bytes;
                    return Some(Part::Failed(Error::Outrun { bytes }));
                };
                if let Some(part) = log.parts.get(at) {
                    self.next += 1;
                    return Some(part.clone());
                }
                if log.ended.is_some() {
                    return None;
                }
            }
            news.await;
        }
    }

    pub(super) fn recording(&self) -> &Arc<Recording> {
        &self.recording
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.recording.readers.send_modify(|readers| {
            readers.count -= 1;
            readers.since = Instant::now();
        });
    }
}

/// What a part takes.
fn size(part: &Part) -> usize {
    let text = match part {
        Part::Text(text) => text.len(),
        Part::Drawn { text, logprobs } => {
            let likely = |one: &Logprob| {
                let all = one.top.iter().chain([&one.drawn]);
                all.map(|likely| likely.bytes.len() + size_of::<Likely>())
                    .sum::<usize>()
            };
            text.len() + logprobs.iter().map(likely).sum::<usize>()
        }
        Part::Queued { .. } | Part::Trimmed { .. } | Part::Done(_) | Part::Failed(_) => 0,
    };
    text + size_of::<Part>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(bytes: usize) -> Arc<Recording> {
        Recording::new(Keep {
            window: Duration::from_secs(30),
            bytes,
        })
    }

    fn text(part: Option<Part>) -> String {
        match part {
            Some(Part::Text(text)) => text,
            other => panic!("{other:?} is no text"),
        }
    }

    #[tokio::test]
    async fn each_reader_reads_from_the_start_and_waits_for_what_comes() {
        let recording = recording(1 << 20);
        recording.push(Part::Text("a".into()));
        let (mut early, mut late) = (recording.read(), recording.read());
        assert_eq!(text(early.next().await), "a");
        let waits = tokio::spawn(async move { text(early.next().await) });
        tokio::task::yield_now().await;
        recording.push(Part::Text("b".into()));
        recording.end();
        assert_eq!(waits.await.unwrap(), "b");
        assert_eq!(text(late.next().await) + &text(late.next().await), "ab");
        assert!(late.next().await.is_none());
    }

    #[tokio::test]
    async fn the_buffer_is_bounded_and_who_is_behind_is_told() {
        let recording = recording(3 * size(&Part::Text("x".into())));
        let mut reader = recording.read();
        for _ in 0..4 {
            recording.push(Part::Text("x".into()));
        }
        assert!(recording.bytes() <= recording.keep.bytes && !recording.is_whole());
        let behind = reader.next().await;
        assert!(
            matches!(behind, Some(Part::Failed(Error::Outrun { .. }))),
            "{behind:?}"
        );
    }

    #[tokio::test]
    async fn it_is_abandoned_when_nobody_came_back_in_time() {
        let window = Duration::from_millis(300);
        let recording = Recording::new(Keep {
            window,
            bytes: 1 << 20,
        });
        let start = Instant::now();
        let first = recording.read();
        let comes_back = async {
            tokio::time::sleep(window / 3).await;
            drop(first);
            tokio::time::sleep(window / 3).await;
            let second = recording.read();
            tokio::time::sleep(window * 2).await;
            drop(second);
        };
        // Asked again and again, as by a writer that has words in between.
        let abandoned = async {
            let ask = || tokio::time::timeout(window / 10, recording.abandoned());
            while ask().await.is_err() {}
        };
        tokio::join!(abandoned, comes_back);
        // Read until 8/3 of a window, and another one later.
        assert!(start.elapsed() > window * 11 / 3, "{:?}", start.elapsed());
        let read = recording.read();
        recording.stop();
        // A stop needs no window, and does not wait for readers.
        recording.abandoned().await;
        drop(read);
    }
}
