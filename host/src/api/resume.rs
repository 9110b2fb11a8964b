//! `GET /chat/stream/{response_id}` takes a lost stream up again, `DELETE` stops it.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::name::Name;
use super::{App, openapi};
use crate::access::Visit;
use crate::error::{Error, Wire};
use crate::stream::{self, ui};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Of {
    /// The session that the answer must belong to.
    session_id: Option<String>,
}

/// Takes a kept answer up again
///
/// The frames after `Last-Event-ID`, all of them without one; 204 where there is nothing more to
/// read. Nobody learns whether an id that is not theirs exists.
#[utoipa::path(
    get, path = "/chat/stream/{response_id}",
    params(
        ("response_id" = String, Path, description = "the answer's id (`messageId`), or its session's"),
        ("Last-Event-ID" = Option<u64>, Header, description = "the last frame that was read"),
        Of,
    ),
    responses(
        (status = 200, description = "the rest of the stream", body = openapi::Frame, content_type = "text/event-stream"),
        (status = 204, description = "nothing to resume"),
        (status = 400, description = "a mistake in the request", body = Wire),
        (status = 401, description = "no API key, or an unknown one", body = Wire),
        (status = 503, description = "shutting down", body = Wire),
    )
)]
pub async fn take_up(
    State(app): State<Arc<App>>,
    Extension(visit): Extension<Visit>,
    Name(id): Name,
    of: Result<Query<Of>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let after = after(&headers)?;
    let Query(of) = of.map_err(|error| Error::invalid("query", error.body_text()))?;
    let of_session = |session: Option<&str>| {
        of.session_id
            .as_deref()
            .is_none_or(|id| session == Some(id))
    };
    let kept = app.replays.find(&visit.tenant, &id).filter(|kept| {
        of_session(kept.head.session.as_ref().map(|session| session.as_str()))
            && kept.recording.is_whole()
    });
    let more = kept.filter(|kept| match kept.recording.complete() {
        Some(parts) => stream::count(&kept.head, parts, ui::Ui::default()) > after,
        None => true,
    });
    let Some(kept) = more else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let answer = kept.answer();
    let when = (app.live().heartbeat, after);
    let mut response = stream::sse(answer.head, answer.parts, ui::Ui::default(), when);
    let (name, version) = ui::HEADER;
    response
        .headers_mut()
        .insert(name, HeaderValue::from_static(version));
    Ok(response)
}

/// Ends the work for an answer that is kept; what was said stays readable.
#[utoipa::path(
    delete, path = "/chat/stream/{response_id}",
    params(("response_id" = String, Path, description = "the answer's id, or its session's")),
    responses(
        (status = 204, description = "stopped"),
        (status = 400, description = "a mistake in the request", body = Wire),
        (status = 401, description = "no API key, or an unknown one", body = Wire),
        (status = 404, description = "no such answer is kept", body = Wire),
        (status = 503, description = "shutting down", body = Wire),
    )
)]
pub async fn stop(
    State(app): State<Arc<App>>,
    Extension(visit): Extension<Visit>,
    Name(id): Name,
) -> Result<Response, Error> {
    let kept = app.replays.find(&visit.tenant, &id);
    let kept = kept.ok_or(Error::NotFound("answer that is kept"))?;
    kept.recording.stop();
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn after(headers: &HeaderMap) -> Result<usize, Error> {
    let Some(id) = headers.get("last-event-id") else {
        return Ok(0);
    };
    let text = id.to_str().unwrap_or_default();
    text.parse().map_err(|_| {
        let found: String = text.chars().take(40).collect();
        Error::invalid(
            "Last-Event-ID",
            format!("found {found:?}, expected the number of a frame"),
        )
    })
}
