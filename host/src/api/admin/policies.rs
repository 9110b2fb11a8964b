//! The admin routes about policies: what serves, and changes of it.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::api::name::{Name, Query};
use crate::api::{App, body, openapi};
use crate::error::Error;
use crate::metrics::Cost;
use crate::policy::{Hook, Listed, PolicyError, PolicyList, State as PolicyState};

#[utoipa::path(get, path = "/admin/policies", responses(
    (status = 200, description = "all policies, and files that are none", body = Value),
    openapi::Kept,
))]
pub async fn policies(State(app): State<Arc<App>>) -> Response {
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
pub struct File {
    #[serde(default)]
    name: String,
}

/// Puts the body into the policies folder under `?name=`, and answers when it serves or is rejected.
#[utoipa::path(post, path = "/admin/policies", params(("name" = String, Query, description = "the file's name, with .wasm")), request_body(content = Vec<u8>, content_type = "application/wasm"), responses(
    (status = 200, description = "all policies, once the file serves or is rejected", body = Value),
    openapi::Kept,
))]
pub async fn upload(
    State(app): State<Arc<App>>,
    Query(File { name }): Query<File>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    // A browser asks first before it sends these to another site.
    let media = ["application/wasm", "application/octet-stream"];
    let mut limits = app.live().bodies;
    (limits.bytes, limits.key) = (app.upload_bytes, "policies.limits.file_bytes");
    let bytes = body::bytes(&headers, body, limits, &media).await?;
    let policies = &app.gateway.policies;
    Ok(listed(
        &app,
        policies.upload(&name, bytes.into()).await.map_err(change)?,
    ))
}

#[utoipa::path(post, path = "/admin/policies/reload", responses(
    (status = 200, description = "all policies, once the folder was looked at", body = Value),
    openapi::Kept,
))]
pub async fn reload(State(app): State<Arc<App>>) -> Result<Response, Error> {
    Ok(listed(
        &app,
        app.gateway.policies.reload().await.map_err(change)?,
    ))
}

#[utoipa::path(post, path = "/admin/policies/{hook}/rollback", params(("hook" = String, Path, description = "guard, trim, prompt, cache or filter")), responses(
    (status = 200, description = "all policies; the one before serves", body = Value),
    openapi::Kept,
))]
pub async fn rollback(State(app): State<Arc<App>>, Name(hook): Name) -> Result<Response, Error> {
    let hook = self::hook(&hook)?;
    let policies = app.gateway.policies.rollback(hook).await;
    Ok(listed(&app, policies.map_err(change)?))
}

#[utoipa::path(post, path = "/admin/policies/{hook}/promote", params(("hook" = String, Path, description = "guard, trim, prompt, cache or filter")), responses(
    (status = 200, description = "all policies; the shadow serves", body = Value),
    openapi::Kept,
))]
pub async fn promote(State(app): State<Arc<App>>, Name(hook): Name) -> Result<Response, Error> {
    let hook = self::hook(&hook)?;
    let policies = app.gateway.policies.promote(hook).await;
    Ok(listed(&app, policies.map_err(change)?))
}

/// Another config for the hook's policy, the body; the answer says how long it lasts.
#[utoipa::path(post, path = "/admin/policies/{hook}/config", params(("hook" = String, Path, description = "guard, trim, prompt, cache or filter")), request_body = Value, responses(
    (status = 200, description = "how long the config lasts, and all policies", body = Value),
    openapi::Kept,
))]
pub async fn configure(
    State(app): State<Arc<App>>,
    Name(hook): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let hook = self::hook(&hook)?;
    let config: Map<String, Value> = body::read(&headers, body, app.live().bodies).await?;
    let policies = &app.gateway.policies;
    policies.configure(hook, config).await.map_err(change)?;
    let lasts = format!(
        "until the gateway is started again: then policies.{hook}.config of its configuration holds"
    );
    Ok(Json(json!({ "hook": hook, "lasts": lasts, "policies": policies.list() })).into_response())
}

#[utoipa::path(get, path = "/admin/policies/{hook}/history", params(("hook" = String, Path, description = "guard, trim, prompt, cache or filter")), responses(
    (status = 200, description = "the hook's revisions, newest first", body = Value),
    openapi::Kept,
))]
pub async fn history(State(app): State<Arc<App>>, Name(hook): Name) -> Result<Response, Error> {
    let hook = self::hook(&hook)?;
    Ok(Json(app.gateway.policies.history(hook).await.map_err(change)?).into_response())
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

pub(super) fn change(error: PolicyError) -> Error {
    match error {
        PolicyError::Stopped => Error::Unavailable(error.to_string()),
        PolicyError::Change { .. } => Error::invalid("hook", error.to_string()),
        PolicyError::Name { .. } => Error::invalid("name", error.to_string()),
        other => Error::Internal(other.to_string()),
    }
}
