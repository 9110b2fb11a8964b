//! The admin routes, on an address of their own.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use super::{App, Name};
use crate::error::Error;
use crate::metrics::CONTENT_TYPE;
use crate::policy::{Hook, PolicyError};

pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/admin/policies", get(policies))
        .route("/admin/policies/reload", post(reload))
        .route("/admin/policies/{hook}/rollback", post(rollback))
        .route("/admin/policies/{hook}/promote", post(promote))
        .route("/admin/audit", get(audit))
        .route("/admin/slots", get(slots))
        .fallback(async || Error::NotFound("admin route"))
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

async fn wrong_method(request: Request) -> Error {
    let changes = ["/reload", "/rollback", "/promote"];
    let path = request.uri().path();
    Error::Method {
        method: request.method().to_string(),
        allowed: match changes.iter().any(|end| path.ends_with(end)) {
            true => "POST",
            false => "GET",
        },
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Error> {
    let text = app
        .gateway
        .metrics
        .encode()
        .map_err(|_| Error::Internal("the metrics cannot be written".into()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

async fn policies(State(app): State<Arc<App>>) -> Response {
    Json(app.gateway.policies.list()).into_response()
}

async fn reload(State(app): State<Arc<App>>) -> Result<Response, Error> {
    Ok(Json(app.gateway.policies.reload().await.map_err(change)?).into_response())
}

async fn rollback(State(app): State<Arc<App>>, Name(hook): Name) -> Result<Response, Error> {
    let hook = self::hook(&hook)?;
    Ok(Json(app.gateway.policies.rollback(hook).await.map_err(change)?).into_response())
}

async fn promote(State(app): State<Arc<App>>, Name(hook): Name) -> Result<Response, Error> {
    let hook = self::hook(&hook)?;
    Ok(Json(app.gateway.policies.promote(hook).await.map_err(change)?).into_response())
}

async fn audit(State(app): State<Arc<App>>) -> Result<Response, Error> {
    let policies = Arc::clone(&app.gateway.policies);
    // Reads a file.
    let changes = tokio::task::spawn_blocking(move || policies.audit(1000))
        .await
        .map_err(|e| Error::Internal(e.to_string()))?;
    Ok(Json(changes.map_err(change)?).into_response())
}

async fn slots(State(app): State<Arc<App>>) -> Response {
    Json(json!(app.gateway.engine.status())).into_response()
}

fn hook(name: &str) -> Result<Hook, Error> {
    Hook::ALL
        .into_iter()
        .find(|hook| hook.as_str() == name)
        .ok_or_else(|| {
            let known = Hook::ALL.map(Hook::as_str).join(", ");
            Error::invalid("hook", format!("found {name:?}, expected one of {known}"))
        })
}

fn change(error: PolicyError) -> Error {
    match error {
        PolicyError::Stopped => Error::Unavailable(error.to_string()),
        PolicyError::Change { .. } => Error::invalid("hook", error.to_string()),
        other => Error::Internal(other.to_string()),
    }
}
