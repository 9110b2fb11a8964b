//! What every request gets, whatever its route: a server span, headers that name its trace, and a
//! line in the access log.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use super::App;
use crate::trace::spans::{self, Held, Outcome};
use crate::trace::{Finished, trace_id, traceresponse};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer names are not taken over: they go into each answer and each line of the log.
const MAX_REQUEST_ID: usize = 64;

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
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let parent = header("traceparent").filter(|_| app.traceparent);
    let span = Held::new(spans::server(method, route, parent));
    let word = |id: &&str| {
        let letter = |c: u8| c.is_ascii_alphanumeric() || b"-_.:/+=".contains(&c);
        !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(letter)
    };
    let arrival = Arrival {
        at: Instant::now(),
        trace: trace_id(&span),
        request_id: header(REQUEST_ID.as_str()).filter(word).map(str::to_owned),
        response: traceresponse(&span),
    };
    (span, arrival)
}

impl Arrival {
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

/// For the routes around a chat: those that nothing is generated for.
pub async fn plain(
    State((app, route)): State<(Arc<App>, &'static str)>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let (span, arrival) = arrive(&app, method.as_str(), route, request.headers());
    let mut response = next.run(request).instrument((*span).clone()).await;
    let status = response.status();
    spans::http_status(&span, status.as_u16());
    let outcome = match (status.is_success(), status.as_u16()) {
        (true, _) => Outcome::Ok,
        (false, 429 | 503) => Outcome::Overloaded,
        (false, _) => Outcome::Error,
    };
    spans::outcome(&span, outcome);
    let told = Finished {
        trace_id: arrival.trace.as_deref(),
        request_id: arrival.request_id.as_deref(),
        ..Finished::plain(
            method.as_str(),
            route,
            status.as_u16(),
            outcome,
            arrival.at.elapsed(),
        )
    };
    told.log(&span);
    arrival.name(&mut response);
    response
}
