//! From the parts of an answer to bytes on the wire: the AI SDK's UI message stream for
//! `/chat/stream`, OpenAI's chunks for `/v1`, one JSON document for both.

pub mod openai;
mod recording;
pub mod ui;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

pub use recording::{Keep, Recording};

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
    async fn next(&mut self) -> Part {
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

/// How an answer looks on one route.
pub trait Format: Send + 'static {
    /// Sent before the first part.
    fn head(&mut self, head: &Head) -> Vec<String>;
    /// The `data:` payloads of one part.
    fn part(&mut self, head: &Head, part: Part) -> Vec<String>;
}

/// The whole answer as server-sent events. `hold` lives until the last byte has left or the
/// client is gone: the request's span travels in it. Frames of an answer that is kept are
/// numbered from 1; those up to number `after` are left out.
pub fn sse<H: Send + 'static>(
    head: Head,
    reader: Reader,
    mut format: impl Format,
    (heartbeat, after): (Duration, usize),
    hold: H,
) -> Response {
    let numbered = reader.recording().is_some();
    let first = format.head(&head);
    let rest = reader.parts().flat_map(move |part| {
        let _ = &hold;
        futures::stream::iter(frames(&mut format, &head, part))
    });
    let events = futures::stream::iter(first).chain(rest);
    let events = events.enumerate().skip(after).map(move |(at, data)| {
        let event = match numbered {
            true => Event::default().id((at + 1).to_string()),
            false => Event::default(),
        };
        Ok::<_, Infallible>(event.data(data))
    });
    with_headers(Sse::new(events).keep_alive(KeepAlive::new().interval(heartbeat).text("alive")))
}

fn frames(format: &mut impl Format, head: &Head, part: Part) -> Vec<String> {
    let last = matches!(part, Part::Done(_) | Part::Failed(_));
    let mut frames = format.part(head, part);
    if last {
        frames.push("[DONE]".into());
    }
    frames
}

/// Frames that a complete answer has.
pub fn count(head: &Head, parts: Vec<Part>, mut format: impl Format) -> usize {
    let first = format.head(head).len();
    let rest = parts.into_iter();
    first
        + rest
            .map(|part| frames(&mut format, head, part).len())
            .sum::<usize>()
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

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn head() -> Head {
        Head {
            id: "resp_1".into(),
            session: SessionId::parse("s").ok(),
            model: "m".into(),
            created: 0,
        }
    }

    fn summary() -> Summary {
        Summary {
            finish: Finish::Stop,
            trace_id: None,
            cached: false,
            coalesced: false,
            generation: 1,
            ttft: None,
            prompt_tokens: 1,
            cached_tokens: 0,
            output_tokens: 1,
            tokens_per_second: 0.0,
        }
    }

    /// What a client that keeps to the HTML standard reads: the payloads.
    fn payloads(wire: &str) -> Vec<String> {
        let events = wire.split("\n\n").filter(|event| !event.is_empty());
        let data = |event: &str| {
            let lines = event
                .split('\n')
                .filter_map(|line| line.strip_prefix("data: "));
            lines.collect::<Vec<_>>().join("\n")
        };
        events.map(data).collect()
    }

    async fn written(texts: &[String], format: impl Format, keep: bool) -> Vec<String> {
        let (parts, reader) = match keep {
            true => kept(Keep {
                window: Duration::from_secs(9),
                bytes: 1 << 20,
            }),
            false => channel(Duration::from_secs(9)),
        };
        for text in texts {
            parts.send(Part::Text(text.clone())).await.unwrap();
        }
        parts.send(Part::Done(summary())).await.unwrap();
        drop(parts);
        let response = sse(head(), reader, format, (Duration::from_secs(9), 0), ());
        let wire = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        payloads(std::str::from_utf8(&wire).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever a model says, its text cannot end a frame or begin one.
        #[test]
        fn text_arrives_as_it_was_said(
            texts in prop::collection::vec("(\\PC|[\r\n\u{0}\u{2028}\u{85}:]|data: |\n\n|\\[DONE\\])*", 0..6),
            keep: bool,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let texts: Vec<String> = texts;
            let said = |frames: &[String], path: &str| -> String {
                let parsed = frames.iter().filter_map(|f| serde_json::from_str::<Value>(f).ok());
                parsed.filter_map(|f| f.pointer(path)?.as_str().map(str::to_owned)).collect()
            };
            runtime.block_on(async {
                let ui = written(&texts, ui::Ui::default(), keep).await;
                let chunks = written(&texts, openai::Chunks { usage: true }, keep).await;
                for frames in [&ui, &chunks] {
                    prop_assert_eq!(frames.last().map(String::as_str), Some("[DONE]"));
                    for frame in &frames[..frames.len() - 1] {
                        prop_assert!(serde_json::from_str::<Value>(frame).is_ok(), "{frame:?}");
                    }
                }
                prop_assert_eq!(said(&ui, "/delta"), texts.concat());
                prop_assert_eq!(said(&chunks, "/choices/0/delta/content"), texts.concat());
                Ok(())
            })?;
        }
    }
}
