//! An answer as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};

use super::{Format, Head, Part, Reader};

/// The whole answer as server-sent events. Frames of an answer that is kept are numbered from 1;
/// those up to number `after` are left out.
pub fn sse(
    head: Head,
    reader: Reader,
    mut format: impl Format,
    (heartbeat, after): (Duration, usize),
) -> Response {
    let numbered = reader.recording().is_some();
    let first = format.head(&head);
    let rest = reader
        .parts()
        .flat_map(move |part| futures::stream::iter(frames(&mut format, &head, part)));
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
