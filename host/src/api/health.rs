//! `GET /health` and `GET /ready`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{App, openapi, shutting_down};

/// Alive: answers whatever the engine does
#[utoipa::path(get, path = "/health", responses((status = 200, description = "alive", body = openapi::Health)))]
pub async fn health(State(app): State<Arc<App>>) -> Response {
    Json(json!({
        "status": "ok",
        "model": app.gateway.engine.model().name,
        "demo": app.gateway.engine.model().demo,
        "uptime_s": app.started.elapsed().as_secs(),
        "version": env!("CARGO_PKG_VERSION"),
    }))
    .into_response()
}

/// Ready: the model is loaded, the policies are active, no slot is stalled, nothing drains
#[utoipa::path(get, path = "/ready", responses(
    (status = 200, description = "ready", body = openapi::Ready),
    (status = 503, description = "not ready, and why", body = openapi::Ready),
))]
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    match problem(&app) {
        None => {
            let mut told = json!({ "status": "ready" });
            // Requests are served all the same: whoever looks is told.
            if let Some((trouble, _)) = app.gateway.sessions.trouble() {
                told["degraded"]["sessions"] = trouble.into();
            }
            if let Some(trouble) = app.gateway.cache.trouble() {
                told["degraded"]["cache"] = trouble.into();
            }
            Json(told).into_response()
        }
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "status": "not ready", "reason": reason })),
        )
            .into_response(),
    }
}

/// Why nobody should be sent here now.
pub fn problem(app: &App) -> Option<String> {
    let status = app.gateway.engine.status();
    if app.draining() {
        Some(shutting_down().to_string())
    } else if !status.ready {
        let unknown = || "the engine is not ready".into();
        Some(status.reason.unwrap_or_else(unknown))
    } else if let Some((trouble, true)) = app.gateway.sessions.trouble() {
        Some(format!("sessions: {trouble}"))
    } else {
        app.gateway.policies.ready().err()
    }
}
