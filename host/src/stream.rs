//! From the parts of an answer to bytes on the wire: the AI SDK's UI message stream for
//! `/chat/stream`, OpenAI's chunks for `/v1`, one JSON document for both.

pub mod openai;
pub mod ui;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use crate::error::Error;
use crate::types::{Finish, SessionId};

/// Parts that may wait for a reader.
const BUFFERED: usize = 256;

/// One piece of an answer, in the order: `Queued*`, `Trimmed?`, `Text*`, then `Done` or `Failed`.
#[derive(Clone, Debug)]
pub enum Part {
    /// Place in the queue; 1 is the next to get a slot.
    Queued {
        position: usize,
    },
    /// So many messages of the history were left out.
    Trimmed {
        dropped: usize,
    },
    /// Whole characters.
    Text(String),
    Done(Summary),
    Failed(Error),
}

/// What is told at the end of an answer.
#[derive(Clone, Debug)]
pub struct Summary {
    pub finish: Finish,
    pub trace_id: Option<String>,
    /// From the cache.
    pub cached: bool,
    /// Shared with an identical question that was running already.
    pub coalesced: bool,
    /// The policy generation that served it.
    pub generation: u64,
    /// From the request's arrival to its first text.
    pub ttft: Option<Duration>,
    pub prompt_tokens: u32,
    /// Prompt tokens that needed no computing.
    pub cached_tokens: u32,
    pub output_tokens: u32,
    pub tokens_per_second: f64,
}

/// What is known of an answer before its first part.
#[derive(Clone, Debug)]
pub struct Head {
    /// Unguessable; names the answer.
    pub id: String,
    pub session: Option<SessionId>,
    pub model: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
}

/// The writing end of an answer.
pub struct Parts {
    sender: mpsc::Sender<Part>,
    patience: Duration,
    cut: Cut,
}

/// The reading end. Dropping it cancels the work.
pub struct Reader {
    parts: mpsc::Receiver<Part>,
    cut: Cut,
}

/// Why a reader was cut off: what it took too long to take includes the last part.
type Cut = Arc<OnceLock<Error>>;

/// A reader that takes nothing for `patience`, while as much waits as is kept, is cut off.
pub fn channel(patience: Duration) -> (Parts, Reader) {
    let (sender, parts) = mpsc::channel(BUFFERED);
    let cut = Cut::default();
    let ours = Arc::clone(&cut);
    let parts = Reader { parts, cut };
    let writer = Parts {
        sender,
        patience,
        cut: ours,
    };
    (writer, parts)
}

impl Reader {
    /// The next part. However an answer ends, its end is told: the last one is `Done` or `Failed`.
    async fn next(&mut self) -> Part {
        match self.parts.recv().await {
            Some(part) => part,
            None => Part::Failed(self.cut.get().cloned().unwrap_or_else(|| {
                Error::Internal("the answer ended without its last part".into())
            })),
        }
    }

    /// All of them.
    fn parts(self) -> impl Stream<Item = Part> + Send {
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
        if let Some(error) = self.cut.get() {
            return Err(Undelivered::Slow(error.clone()));
        }
        match tokio::time::timeout(self.patience, self.sender.send(part)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Undelivered::Gone),
            Err(_) => {
                let slow = || Error::SlowReader {
                    buffered: BUFFERED,
                    waited: self.patience,
                };
                Err(Undelivered::Slow(self.cut.get_or_init(slow).clone()))
            }
        }
    }

    /// Resolves when the client has left.
    pub async fn gone(&self) {
        self.sender.closed().await;
    }
}

/// How an answer looks on one route.
pub trait Format: Send + 'static {
    /// Sent before the first part.
    fn head(&mut self, head: &Head) -> Vec<String>;
    /// The `data:` payloads of one part.
    fn part(&mut self, head: &Head, part: Part) -> Vec<String>;
}

/// The whole answer as server-sent events. `hold` lives until the last byte has left or the
/// client is gone: the request's span travels in it.
pub fn sse<H: Send + 'static>(
    head: Head,
    reader: Reader,
    mut format: impl Format,
    heartbeat: Duration,
    hold: H,
) -> Response {
    let first = format.head(&head);
    let rest = reader.parts().flat_map(move |part| {
        let _ = &hold;
        let last = matches!(part, Part::Done(_) | Part::Failed(_));
        let mut frames = format.part(&head, part);
        if last {
            frames.push("[DONE]".into());
        }
        futures::stream::iter(frames)
    });
    let events = futures::stream::iter(first).chain(rest).map(event);
    with_headers(Sse::new(events).keep_alive(KeepAlive::new().interval(heartbeat).text("alive")))
}

fn event(data: String) -> Result<Event, Infallible> {
    Ok(Event::default().data(data))
}

fn with_headers<S>(sse: Sse<S>) -> Response
where
    Sse<S>: IntoResponse,
    S: Stream,
{
    let mut response = sse.into_response();
    let headers = response.headers_mut();
    // Proxies must neither buffer nor recompress a stream.
    headers.insert(
        "cache-control",
        HeaderValue::from_static("no-cache, no-transform"),
    );
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// An answer that is read whole.
pub struct Whole {
    pub text: String,
    pub summary: Summary,
}

/// Reads the answer to its end.
///
/// # Errors
/// The failure that ended it.
pub async fn collect(mut reader: Reader) -> Result<Whole, Error> {
    let mut text = String::new();
    loop {
        match reader.next().await {
            Part::Text(piece) => text.push_str(&piece),
            Part::Done(summary) => return Ok(Whole { text, summary }),
            Part::Failed(error) => return Err(error),
            Part::Queued { .. } | Part::Trimmed { .. } => {}
        }
    }
}

/// Milliseconds with one decimal, as they are shown.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}
