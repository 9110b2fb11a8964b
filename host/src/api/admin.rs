//! The admin routes, on an address of their own.

pub mod policies;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::name::Query;
use super::{App, body, door, health, observe, openapi, origin, pages};
use crate::error::Error;
use crate::metrics::{CONTENT_TYPE, Process};
use crate::trace::ring;

/// The routes by their patterns, for the access log.
pub const ROUTES: [&str; 18] = [
    "/",
    "/console",
    "/assets/{digest}/{*path}",
    "/openapi.json",
    "/metrics",
    "/admin/policies",
    "/admin/policies/reload",
    "/admin/policies/{hook}/rollback",
    "/admin/policies/{hook}/promote",
    "/admin/policies/{hook}/config",
    "/admin/policies/{hook}/history",
    "/admin/alarms",
    "/admin/audit",
    "/admin/config",
    "/admin/slots",
    "/admin/status",
    "/admin/log",
    "/admin/traces",
];

pub fn router(app: Arc<App>) -> Router {
    let document: Arc<str> = openapi::admin().into();
    // A test holds these against what /openapi.json tells.
    pages::console(&app.trace_url)
        .route("/openapi.json", get(move || openapi::give(document)))
        .route("/metrics", get(metrics))
        .route(
            "/admin/policies",
            get(policies::policies).post(policies::upload),
        )
        .route("/admin/policies/reload", post(policies::reload))
        .route("/admin/policies/{hook}/rollback", post(policies::rollback))
        .route("/admin/policies/{hook}/promote", post(policies::promote))
        .route("/admin/policies/{hook}/config", post(policies::configure))
        .route("/admin/policies/{hook}/history", get(policies::history))
        .route("/admin/alarms", get(alarms))
        .route("/admin/audit", get(audit))
        .route("/admin/config", get(config))
        .route("/admin/slots", get(slots))
        .route("/admin/status", get(status))
        .route("/admin/log", get(log).put(set_log).delete(reset_log))
        .route("/admin/traces", get(traces))
        .fallback(async || Error::NotFound("admin route"))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(origin::same))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            door::admin,
        ))
        // Around all others, so that what they refuse is told as well.
        .layer(middleware::from_fn(observe::admin))
        .with_state(app)
}

async fn wrong_method(request: Request) -> Error {
    let changes = ["/reload", "/rollback", "/promote", "/config"];
    let path = request.uri().path();
    let allowed = match path {
        "/admin/log" => "GET, PUT, DELETE",
        "/admin/policies" => "GET, POST",
        "/admin/config" => "GET",
        path if changes.iter().any(|end| path.ends_with(end)) => "POST",
        _ => "GET",
    };
    Error::Method {
        method: request.method().to_string(),
        allowed,
    }
}

#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, description = "metrics in the OpenMetrics format", body = String, content_type = "application/openmetrics-text"),
    openapi::Kept,
))]
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Error> {
    let text = app
        .gateway
        .metrics
        .encode()
        .map_err(|_| Error::Internal("the metrics cannot be written".into()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

/// The configuration in force, with its secrets hidden, and the keys that wait for the next start
#[utoipa::path(get, path = "/admin/config", responses(
    (status = 200, description = "every key, and those whose new value holds from the next start on", body = Value),
    openapi::Kept,
))]
pub async fn config(State(app): State<Arc<App>>) -> Response {
    Json(&**app.config.load()).into_response()
}

/// Standing troubles of the policies, one sentence each.
#[utoipa::path(get, path = "/admin/alarms", responses(
    (status = 200, description = "one sentence each", body = Vec<String>),
    openapi::Kept,
))]
pub async fn alarms(State(app): State<Arc<App>>) -> Response {
    Json(app.gateway.policies.alarms()).into_response()
}

#[utoipa::path(get, path = "/admin/audit", responses(
    (status = 200, description = "the last changes, oldest first", body = Value),
    openapi::Kept,
))]
pub async fn audit(State(app): State<Arc<App>>) -> Result<Response, Error> {
    let policies = Arc::clone(&app.gateway.policies);
    // Reads a file.
    let changes = tokio::task::spawn_blocking(move || policies.audit(1000))
        .await
        .map_err(|e| Error::Internal(e.to_string()))?;
    Ok(Json(changes.map_err(policies::change)?).into_response())
}

#[utoipa::path(get, path = "/admin/slots", responses(
    (status = 200, description = "what each slot does", body = Value),
    openapi::Kept,
))]
pub async fn slots(State(app): State<Arc<App>>) -> Response {
    Json(json!(app.gateway.engine.status())).into_response()
}

/// Everything that `stent status` and `stent top` show, as things stand.
#[utoipa::path(get, path = "/admin/status", responses(
    (status = 200, description = "what `stent status` shows", body = Value),
    openapi::Kept,
))]
pub async fn status(State(app): State<Arc<App>>) -> Response {
    let gateway = &app.gateway;
    let engine = gateway.engine.status();
    let reason = health::problem(&app);
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "model": gateway.engine.model().name,
        "uptime_s": app.started.elapsed().as_secs(),
        "ready": reason.is_none(),
        "reason": reason,
        "restarts": app.starts.restarts(),
        "process": Process::read(),
        "first_words": gateway.metrics.first_words(),
        "queue": { "waiting": engine.queued, "limit": gateway.admission.limit() - engine.slots.len() },
        "slots": engine.slots,
        "totals": engine.totals,
        "now": gateway.metrics.readings(),
        "policies": gateway.policies.list(),
        "alarms": gateway.policies.alarms(),
        "log": app.logging.current(),
    }))
    .into_response()
}

/// Which lines are written, and which a start would write.
#[utoipa::path(get, path = "/admin/log", responses(
    (status = 200, description = "the filter in force, and the configured one", body = Value),
    openapi::Kept,
))]
pub async fn log(State(app): State<Arc<App>>) -> Response {
    Json(json!({ "filter": app.logging.current(), "configured": app.logging.configured() }))
        .into_response()
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LogFilter)]
pub struct Filter {
    /// A level, or directives such as `info,stent::policy=debug`.
    filter: String,
}

/// Another filter, until the gateway is started again.
#[utoipa::path(put, path = "/admin/log", request_body = Filter, responses(
    (status = 200, description = "the filter in force, and the configured one", body = Value),
    openapi::Kept,
))]
pub async fn set_log(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let Filter { filter } = body::read(&headers, body, app.live().bodies).await?;
    let wrong = |_| {
        let expected = "a level or directives such as \"info,stent::policy=debug\"";
        Error::invalid("filter", format!("found {filter:?}, expected {expected}"))
    };
    app.logging.set(&filter).map_err(wrong)?;
    tracing::info!(filter, "the log has another filter");
    Ok(log(State(app)).await)
}

#[utoipa::path(delete, path = "/admin/log", responses(
    (status = 200, description = "the filter in force, and the configured one", body = Value),
    openapi::Kept,
))]
pub async fn reset_log(State(app): State<Arc<App>>) -> Response {
    // It was read once already, at the start.
    let _ = app.logging.set(&app.logging.configured());
    log(State(app)).await
}

#[derive(Deserialize)]
pub struct Most {
    limit: Option<String>,
}

/// The last requests and policy changes with their stages, newest first; `?limit=` of them.
#[utoipa::path(get, path = "/admin/traces", params(("limit" = Option<u32>, Query, description = "so many of them")), responses(
    (status = 200, description = "the last traces, newest first", body = Value),
    openapi::Kept,
))]
pub async fn traces(
    State(app): State<Arc<App>>,
    Query(most): Query<Most>,
) -> Result<Response, Error> {
    let limit = most.limit.map_or(Ok(ring::TRACES), |text| {
        let wrong = |_| Error::invalid("limit", format!("found {text:?}, expected a number"));
        text.parse().map_err(wrong)
    });
    Ok(Json(app.traces.last(limit?)).into_response())
}
