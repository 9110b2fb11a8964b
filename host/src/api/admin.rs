//! The admin routes, on an address of their own.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{App, Name, body, door, origin, pages};
use crate::error::Error;
use crate::metrics::{CONTENT_TYPE, Cost, Process};
use crate::policy::{Hook, Listed, PolicyError, PolicyList, State as PolicyState};
use crate::trace::ring;

pub fn router(app: Arc<App>) -> Router {
    pages::console(&app.trace_url)
        .route("/metrics", get(metrics))
        .route("/admin/policies", get(policies).post(upload))
        .route("/admin/policies/reload", post(reload))
        .route("/admin/policies/{hook}/rollback", post(rollback))
        .route("/admin/policies/{hook}/promote", post(promote))
        .route("/admin/policies/{hook}/config", post(configure))
        .route("/admin/policies/{hook}/history", get(history))
        .route("/admin/alarms", get(alarms))
        .route("/admin/audit", get(audit))
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
        .with_state(app)
}

async fn wrong_method(request: Request) -> Error {
    let changes = ["/reload", "/rollback", "/promote", "/config"];
    let path = request.uri().path();
    let allowed = match changes.iter().any(|end| path.ends_with(end)) {
        true => "POST",
        false if path == "/admin/log" => "GET, PUT, DELETE",
        false if path == "/admin/policies" => "GET, POST",
        false => "GET",
    };
    Error::Method {
        method: request.method().to_string(),
        allowed,
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
    listed(&app, app.gateway.policies.list())
}

/// A policy or a file that is none, and what its calls cost since it began to serve.
#[derive(Serialize)]
struct Operated {
    #[serde(flatten)]
    policy: Listed,
    #[serde(flatten)]
    cost: Option<Cost>,
}

fn listed(app: &App, policies: PolicyList) -> Response {
    let operated = |policy: Listed| {
        let live = match policy.state {
            PolicyState::Live | PolicyState::Builtin => Some(true),
            PolicyState::Shadow => Some(false),
            PolicyState::Pending | PolicyState::Compiling | PolicyState::Rejected => None,
        };
        let costs = &app.gateway.metrics.costs;
        let cost = policy.hook.zip(live);
        let cost = cost.map(|(hook, live)| costs.cost(hook.as_str(), live));
        Operated { policy, cost }
    };
    Json(policies.0.into_iter().map(operated).collect::<Vec<_>>()).into_response()
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    name: String,
}

/// Puts the body into the policies folder under `?name=`, and answers when it serves or is rejected.
async fn upload(
    State(app): State<Arc<App>>,
    Query(File { name }): Query<File>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    // A browser asks first before it sends these to another site.
    let media = ["application/wasm", "application/octet-stream"];
    let mut limits = app.bodies;
    (limits.bytes, limits.key) = (app.upload_bytes, "policies.limits.file_bytes");
    let bytes = body::bytes(&headers, body, limits, &media).await?;
    let policies = &app.gateway.policies;
    Ok(listed(
        &app,
        policies.upload(&name, bytes.into()).await.map_err(change)?,
    ))
}

async fn reload(State(app): State<Arc<App>>) -> Result<Response, Error> {
    Ok(listed(
        &app,
        app.gateway.policies.reload().await.map_err(change)?,
    ))
}

async fn rollback(State(app): State<Arc<App>>, Name(hook): Name) -> Result<Response, Error> {
    let hook = self::hook(&hook)?;
    let policies = app.gateway.policies.rollback(hook).await;
    Ok(listed(&app, policies.map_err(change)?))
}

async fn promote(State(app): State<Arc<App>>, Name(hook): Name) -> Result<Response, Error> {
    let hook = self::hook(&hook)?;
    let policies = app.gateway.policies.promote(hook).await;
    Ok(listed(&app, policies.map_err(change)?))
}

/// Another config for the hook's policy, the body; the answer says how long it lasts.
async fn configure(
    State(app): State<Arc<App>>,
    Name(hook): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let hook = self::hook(&hook)?;
    let config: Map<String, Value> = body::read(&headers, body, app.bodies).await?;
    let policies = &app.gateway.policies;
    policies.configure(hook, config).await.map_err(change)?;
    let lasts = format!(
        "until the gateway is started again: then policies.{hook}.config of its configuration holds"
    );
    Ok(Json(json!({ "hook": hook, "lasts": lasts, "policies": policies.list() })).into_response())
}

async fn history(State(app): State<Arc<App>>, Name(hook): Name) -> Result<Response, Error> {
    let hook = self::hook(&hook)?;
    Ok(Json(app.gateway.policies.history(hook).await.map_err(change)?).into_response())
}

/// Standing troubles of the policies, one sentence each.
async fn alarms(State(app): State<Arc<App>>) -> Response {
    Json(app.gateway.policies.alarms()).into_response()
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

/// Everything that `stent status` and `stent top` show, as things stand.
async fn status(State(app): State<Arc<App>>) -> Response {
    let gateway = &app.gateway;
    let engine = gateway.engine.status();
    let reason = super::problem(&app);
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
async fn log(State(app): State<Arc<App>>) -> Response {
    Json(json!({ "filter": app.logging.current(), "configured": app.logging.configured() }))
        .into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// A level, or directives such as `info,stent::policy=debug`.
    filter: String,
}

/// Another filter, until the gateway is started again.
async fn set_log(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let Filter { filter } = body::read(&headers, body, app.bodies).await?;
    let wrong = |_| {
        let expected = "a level or directives such as \"info,stent::policy=debug\"";
        Error::invalid("filter", format!("found {filter:?}, expected {expected}"))
    };
    app.logging.set(&filter).map_err(wrong)?;
    tracing::info!(filter, "the log has another filter");
    Ok(log(State(app)).await)
}

async fn reset_log(State(app): State<Arc<App>>) -> Response {
    // It was read once already, at the start.
    let _ = app.logging.set(app.logging.configured());
    log(State(app)).await
}

#[derive(Deserialize)]
struct Most {
    limit: Option<String>,
}

/// The last requests and policy changes with their stages, newest first; `?limit=` of them.
async fn traces(State(app): State<Arc<App>>, Query(most): Query<Most>) -> Result<Response, Error> {
    let limit = most.limit.map_or(Ok(ring::TRACES), |text| {
        let wrong = |_| Error::invalid("limit", format!("found {text:?}, expected a number"));
        text.parse().map_err(wrong)
    });
    Ok(Json(app.traces.last(limit?)).into_response())
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
        PolicyError::Name { .. } => Error::invalid("name", error.to_string()),
        other => Error::Internal(other.to_string()),
    }
}
