//! From who produces an answer to who reads it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::Stream;
use tokio::sync::mpsc;

use super::recording::{self, Keep, Recording};
use super::{Part, Summary};
use crate::error::Error;
use crate::types::{Finish, Logprob};

/// Parts that may wait for a reader.
const BUFFERED: usize = 256;

/// The writing end of an answer.
pub struct Parts(Sink);

enum Sink {
    One {
        sender: mpsc::Sender<Part>,
        patience: Duration,
        cut: Cut,
    },
    Kept(Arc<Recording>),
}

/// The reading end. Dropping it cancels the work, but for an answer that is kept.
pub struct Reader(Source);

enum Source {
    One {
        parts: mpsc::Receiver<Part>,
        cut: Cut,
    },
    Kept(recording::Reading),
}

/// Why a reader was cut off: what it took too long to take includes the last part.
type Cut = Arc<OnceLock<Error>>;

/// A reader that takes nothing for `patience`, while as much waits as is kept, is cut off.
pub fn channel(patience: Duration) -> (Parts, Reader) {
    let (sender, parts) = mpsc::channel(BUFFERED);
    let cut = Cut::default();
    let writer = Sink::One {
        sender,
        patience,
        cut: Arc::clone(&cut),
    };
    (Parts(writer), Reader(Source::One { parts, cut }))
}

/// An answer that others may read too, and its reader again after a lost connection.
pub fn kept(keep: Keep) -> (Parts, Reader) {
    let recording = Recording::new(keep);
    let reader = Reader::of(&recording);
    (Parts(Sink::Kept(recording)), reader)
}

impl Reader {
    /// One that reads a kept answer from its start.
    pub fn of(recording: &Arc<Recording>) -> Self {
        Self(Source::Kept(recording.read()))
    }

    /// What keeps the answer, where it is kept.
    pub fn recording(&self) -> Option<&Arc<Recording>> {
        match &self.0 {
            Source::One { .. } => None,
            Source::Kept(reading) => Some(reading.recording()),
        }
    }

    /// The next part. However an answer ends, its end is told: the last one is `Done` or `Failed`.
    pub(super) async fn next(&mut self) -> Part {
        let (part, cut) = match &mut self.0 {
            Source::One { parts, cut } => (parts.recv().await, cut.get().cloned()),
            Source::Kept(reading) => (reading.next().await, None),
        };
        part.unwrap_or_else(|| {
            Part::Failed(cut.unwrap_or_else(|| {
                Error::Internal("the answer ended without its last part".into())
            }))
        })
    }

    /// All of them.
    pub(super) fn parts(self) -> impl Stream<Item = Part> + Send {
        futures::stream::unfold(Some(self), async |reader| {
            let mut reader = reader?;
            let part = reader.next().await;
            let last = matches!(part, Part::Done(_) | Part::Failed(_));
            Some((part, (!last).then_some(reader)))
        })
    }
}

/// Why a part was not delivered.
#[derive(Debug)]
pub enum Undelivered {
    /// The client left.
    Gone,
    Slow(Error),
}

impl Parts {
    /// Waits while the reader's buffer is full, but not for ever.
    pub async fn send(&self, part: Part) -> Result<(), Undelivered> {
        let (sender, patience, cut) = match &self.0 {
            Sink::One {
                sender,
                patience,
                cut,
            } => (sender, *patience, cut),
            Sink::Kept(recording) => {
                recording.push(part);
                return match recording.is_stopped() {
                    true => Err(Undelivered::Gone),
                    false => Ok(()),
                };
            }
        };
        if let Some(error) = cut.get() {
            return Err(Undelivered::Slow(error.clone()));
        }
        match tokio::time::timeout(patience, sender.send(part)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Undelivered::Gone),
            Err(_) => {
                let slow = || Error::SlowReader {
                    buffered: BUFFERED,
                    waited: patience,
                };
                Err(Undelivered::Slow(cut.get_or_init(slow).clone()))
            }
        }
    }

    /// Whether somebody asked for the end of a kept answer.
    pub fn is_stopped(&self) -> bool {
        matches!(&self.0, Sink::Kept(recording) if recording.is_stopped())
    }

    /// Resolves when the client has left, and for a kept answer when it did not come back.
    pub async fn gone(&self) {
        match &self.0 {
            Sink::One { sender, .. } => sender.closed().await,
            Sink::Kept(recording) => recording.abandoned().await,
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let Sink::Kept(recording) = &self.0 {
            recording.end();
        }
    }
}

/// An answer that is read whole.
pub struct Whole {
    pub text: String,
    /// Of all its tokens, where they were asked for.
    pub logprobs: Vec<Logprob>,
    pub summary: Summary,
}

/// Reads the answer to its end.
///
/// # Errors
/// The failure that ended it, or [`Error::Stopped`].
pub async fn collect(mut reader: Reader) -> Result<Whole, Error> {
    let (mut text, mut logprobs) = (String::new(), Vec::new());
    loop {
        match reader.next().await {
            Part::Text(piece) => text.push_str(&piece),
            Part::Drawn {
                text: piece,
                logprobs: more,
            } => {
                text.push_str(&piece);
                logprobs.extend(more);
            }
            Part::Done(summary) if summary.finish == Finish::Cancelled => {
                return Err(Error::Stopped);
            }
            Part::Done(summary) => {
                return Ok(Whole {
                    text,
                    logprobs,
                    summary,
                });
            }
            Part::Failed(error) => return Err(error),
            Part::Queued { .. } | Part::Trimmed { .. } => {}
        }
    }
}
