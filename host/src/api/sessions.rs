//! `GET` and `DELETE /sessions/{id}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::name::Session;
use super::{App, openapi};
use crate::error::{Error, Wire};

/// A session's history as it is remembered
#[utoipa::path(
    get, path = "/sessions/{id}", params(("id" = String, Path, description = "the session")),
    responses(
        (status = 200, description = "its messages", body = openapi::History),
        (status = 500, description = "it cannot be read: another key, a newer format", body = Wire),
        (status = 400, description = "no session id", body = Wire),
        (status = 401, description = "no API key, or an unknown one", body = Wire),
        (status = 404, description = "nothing was said in it", body = Wire),
        (status = 503, description = "shutting down, or the session store failed", body = Wire),
    )
)]
pub async fn history(
    State(app): State<Arc<App>>,
    Session(key): Session,
) -> Result<Response, Error> {
    let session = app.gateway.sessions.load(&key).await?;
    if session.messages.is_empty() {
        return Err(Error::NotFound("session"));
    }
    let messages: Vec<_> = session
        .messages
        .iter()
        .map(|m| json!({ "role": m.role, "text": m.text, "exchange": m.exchange }))
        .collect();
    Ok(Json(json!({ "session_id": key.session, "messages": messages })).into_response())
}

/// Forgets a session: its history, its kept answers and its KV
#[utoipa::path(
    delete, path = "/sessions/{id}", params(("id" = String, Path, description = "the session")),
    responses(
        (status = 204, description = "forgotten"),
        (status = 400, description = "no session id", body = Wire),
        (status = 401, description = "no API key, or an unknown one", body = Wire),
        (status = 404, description = "nothing was said in it", body = Wire),
        (status = 503, description = "shutting down, or the session store failed", body = Wire),
    )
)]
pub async fn forget(State(app): State<Arc<App>>, Session(key): Session) -> Result<Response, Error> {
    // Whoever is at work for the session asks last whether it is forgotten: that is marked first.
    let known = app.gateway.sessions.forget(&key);
    app.gateway.engine.forget(&key);
    app.replays.forget(&key);
    if known.await? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(Error::NotFound("session"))
    }
}
