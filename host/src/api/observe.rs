//! What every request gets, whatever its route: a server span, headers that name its trace, and a
//! line in the access log.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tracing::{Instrument, Span};

use super::App;
use super::admin::ROUTES;
use super::door::{self, ANSWERS, OPEN};
use crate::trace::spans::{self, Held, Outcome};
use crate::trace::{Finished, trace_id, traceresponse};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer names are not taken over: they go into each answer and each line of the log.
const MAX_REQUEST_ID: usize = 64;

/// The other routes around those that give answers.
const AROUND: [&str; 3] = ["/chat/stream/{response_id}", "/sessions/{id}", "/v1/models"];

/// A request that has just come, as its answer and the log will name it.
pub struct Arrival {
    pub at: Instant,
    pub trace: Option<String>,
    /// The client's `x-request-id`, where it is one word.
    pub request_id: Option<String>,
    response: Option<String>,
}

/// Opens the server span.
pub fn arrive(
    app: &App,
    method: &str,
    route: &'static str,
    headers: &HeaderMap,
) -> (Held, Arrival) {
    let parent = text(headers, "traceparent").filter(|_| app.live().traceparent);
    let span = Held::new(spans::server(method, route, parent));
    let arrival = Arrival::new(headers, &span);
    (span, arrival)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl Arrival {
    fn new(headers: &HeaderMap, span: &Span) -> Self {
        let word = |id: &&str| {
            let letter = |c: u8| c.is_ascii_alphanumeric() || b"-_.:/+=".contains(&c);
            !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(letter)
        };
        let request_id = text(headers, REQUEST_ID.as_str()).filter(word);
        Self {
            at: Instant::now(),
            trace: trace_id(span),
            request_id: request_id.map(str::to_owned),
            response: traceresponse(span),
        }
    }

    /// Names trace and request in the response's head; who gave no name of its own gets the trace's.
    pub fn name(&self, response: &mut Response) {
        let names = [
            (HeaderName::from_static("traceresponse"), &self.response),
            (
                REQUEST_ID,
                self.request_id
                    .as_ref()
                    .map_or(&self.trace, |_| &self.request_id),
            ),
        ];
        for (name, value) in names {
            let value = value.as_deref().map(HeaderValue::from_str);
            if let Some(Ok(value)) = value {
                response.headers_mut().insert(name, value);
            }
        }
    }
}

/// Observes whatever is no request for an answer: those are observed where their path is known.
pub async fn around(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if door::answers(&request).is_some() {
        return next.run(request).await;
    }
    let path = door::route(&request);
    let named = |routes: &[&'static str]| routes.iter().copied().find(|route| *route == path);
    // Balancers and browsers fetch these all day: no span, and a line only for who wants it.
    let (route, quiet) = match named(&OPEN) {
        Some(route) => (route, true),
        // Without a name: what somebody asked for where nothing is.
        None => (named(&AROUND).or(named(&ANSWERS)).unwrap_or(""), false),
    };
    let method = word(request.method());
    let without_body = request.method() == Method::HEAD;
    let (span, arrival) = match quiet {
        true => (
            Held::new(Span::none()),
            Arrival::new(request.headers(), &Span::none()),
        ),
        false => arrive(&app, method, route, request.headers()),
    };
    let mut response = next.run(request).instrument((*span).clone()).await;
    let status = response.status();
    spans::http_status(&span, status.as_u16());
    arrival.name(&mut response);
    let outcome = outcome(status);
    until_taken(response, move |whole| {
        let outcome = match whole || without_body {
            true => outcome,
            false => {
                spans::event(&span, "client_disconnected", &[]);
                Outcome::Cancelled
            }
        };
        spans::outcome(&span, outcome);
        let told = Finished {
            trace_id: arrival.trace.as_deref(),
            request_id: arrival.request_id.as_deref(),
            quiet,
            ..Finished::plain(
                method,
                route,
                status.as_u16(),
                outcome,
                arrival.at.elapsed(),
            )
        };
        told.log(&span);
    })
}

/// One line for each request of an operator. What pages, scrapers and `stent top` read all day is told
/// at level debug; what changes something, and what was refused, is told.
pub async fn admin(request: Request, next: Next) -> Response {
    let at = Arrival::new(request.headers(), &Span::none());
    let method = word(request.method());
    let path = door::route(&request);
    let route = ROUTES.into_iter().find(|route| *route == path);
    let reads = request.method().is_safe();
    let mut response = next.run(request).await;
    at.name(&mut response);
    let status = response.status();
    let outcome = outcome(status);
    let told = Finished {
        request_id: at.request_id.as_deref(),
        quiet: reads && outcome == Outcome::Ok,
        ..Finished::plain(
            method,
            route.unwrap_or(""),
            status.as_u16(),
            outcome,
            at.at.elapsed(),
        )
    };
    told.log(&Span::none());
    response
}

fn outcome(status: StatusCode) -> Outcome {
    match status.as_u16() {
        200..400 => Outcome::Ok,
        429 | 503 => Outcome::Overloaded,
        _ => Outcome::Error,
    }
}

/// A method by its name. Any other word is the client's own, and stays out of spans and log (HTTP
/// conventions: `_OTHER`).
fn word(method: &Method) -> &'static str {
    const WORDS: [&str; 9] = [
        "GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "CONNECT",
    ];
    let known = WORDS.into_iter().find(|word| *word == method.as_str());
    known.unwrap_or("_OTHER")
}

/// The same response. `end` is called when its last byte was taken, or when nobody takes the rest,
/// and told which; what it holds lives until then.
pub fn until_taken(response: Response, end: impl FnOnce(bool) + Send + 'static) -> Response {
    let end: End = Some(Box::new(end));
    response.map(|body| Body::new(Taken { body, end }))
}

type End = Option<Box<dyn FnOnce(bool) + Send>>;

struct Taken {
    body: Body,
    end: End,
}

impl Taken {
    fn end(&mut self, whole: bool) {
        if let Some(end) = self.end.take() {
            end(whole);
        }
    }
}

impl HttpBody for Taken {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.end(true);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // A body of a known length is not asked for more than that.
        let whole = self.body.is_end_stream();
        self.end(whole);
    }
}
