//! The way of a request for an answer, whatever its route: span, body, a run of its own or the one
//! that another attempt has, and how it ended.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use tracing::{Instrument, Span};

use super::observe::{self, Arrival};
use super::replays::Claim;
use super::{App, body, shutting_down};
use crate::access::Visit;
use crate::chat::{Answer, Ask, chat};
use crate::error::Error;
use crate::trace::Finished;
use crate::trace::spans::{self, Outcome};

/// Runs a request under its server span and tells how it ended. What is refused before the head
/// is recorded here, everything else where the answer ends.
pub async fn serve<F>(
    app: &App,
    request: Incoming<'_>,
    ask: impl FnOnce(Span) -> Result<Ask, Error>,
    respond: F,
) -> Response
where
    F: AsyncFnOnce(Answer) -> Result<Response, Error>,
{
    let Incoming {
        route,
        headers,
        claim,
        resume,
    } = request;
    let (span, arrival) = observe::arrive(app, "POST", route, headers);
    let server = (*span).clone();
    let result = async {
        if app.draining() {
            return Err(shutting_down());
        }
        let mut ask = ask(server.clone())?;
        let claim = claim?;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        ask.attributes = app.gateway.policies.attributes(header);
        ask.request_id.clone_from(&arrival.request_id);
        ask.keep = (resume || claim.is_some()).then(|| app.replays.keep());
        match claim {
            Some(claim) => once(app, &claim, ask, &arrival).await,
            None => {
                let tenant = ask.tenant.clone();
                let answer = chat(&app.gateway, ask).await?;
                app.replays.add(&tenant, &answer);
                Ok(answer)
            }
        }
    }
    .instrument(server.clone())
    .await;
    let responded = match result {
        // How the answer ended is recorded where it ended.
        Ok(answer) => respond(answer).instrument(server.clone()).await,
        Err(error) => {
            refused(app, route, &server, &error, &arrival);
            Err(error)
        }
    };
    let mut response = responded.unwrap_or_else(IntoResponse::into_response);
    spans::http_status(&server, response.status().as_u16());
    arrival.name(&mut response);
    // The span ends when the last byte has left, or its reader.
    observe::until_taken(response, move |_| drop(span))
}

/// What a request for an answer brings beside its body.
pub struct Incoming<'a> {
    route: &'static str,
    headers: &'a HeaderMap,
    /// Of its `Idempotency-Key`.
    claim: Result<Option<Arc<Claim>>, Error>,
    /// The client will come back if it loses the connection.
    pub resume: bool,
}

impl<'a> Incoming<'a> {
    /// Reads the body of a request for an answer.
    pub async fn read<T: DeserializeOwned>(
        app: &App,
        visit: &Visit,
        route: &'static str,
        headers: &'a HeaderMap,
        body: Body,
    ) -> (Result<T, Error>, Self) {
        let media = ["application/json"];
        let bytes = body::bytes(headers, body, app.live().bodies, &media).await;
        let claim = match &bytes {
            Ok(bytes) => app.replays.claim(&visit.tenant, headers, (route, bytes)),
            // What the body is refused for is told.
            Err(_) => Ok(None),
        };
        let incoming = Self {
            route,
            headers,
            claim,
            resume: false,
        };
        (bytes.and_then(|bytes| body::parse(&bytes)), incoming)
    }
}

/// The answer that another attempt of the same request has or gets, or else a run of its own.
async fn once(app: &App, claim: &Claim, ask: Ask, arrival: &Arrival) -> Result<Answer, Error> {
    let (tenant, span, route) = (ask.tenant.clone(), ask.span.clone(), ask.route);
    let mut own = None;
    let first = async {
        let answer = chat(&app.gateway, ask).await?;
        let kept = app.replays.add(&tenant, &answer);
        let lost = || Error::Internal("an answer that was to be kept was not".into());
        let kept = kept.ok_or_else(lost)?;
        own = Some(answer);
        Ok::<_, Error>(kept)
    };
    let kept = Arc::clone(claim.answer.get_or_try_init(|| first).await?);
    if let Some(answer) = own {
        return Ok(answer);
    }
    let outcome = match kept.recording.ended() {
        Some(_) => Outcome::Cached,
        None => Outcome::Coalesced,
    };
    let finished = Finished {
        trace_id: arrival.trace.as_deref(),
        request_id: arrival.request_id.as_deref(),
        ..Finished::plain("POST", route, 200, outcome, arrival.at.elapsed())
    };
    app.gateway.finished(&span, &finished);
    Ok(kept.answer())
}

pub fn refused(app: &App, route: &'static str, span: &Span, error: &Error, arrival: &Arrival) {
    let (status, _, code) = error.class();
    let outcome = match error {
        Error::Refused { .. } => Outcome::Blocked,
        _ if status == StatusCode::TOO_MANY_REQUESTS => Outcome::Overloaded,
        Error::Unavailable(_) => Outcome::Overloaded,
        _ => Outcome::Error,
    };
    if status.is_server_error() {
        spans::failed(span, code);
    }
    let elapsed = arrival.at.elapsed();
    let finished = Finished {
        code: Some(code),
        trace_id: arrival.trace.as_deref(),
        request_id: arrival.request_id.as_deref(),
        ..Finished::plain("POST", route, status.as_u16(), outcome, elapsed)
    };
    app.gateway.finished(span, &finished);
}
