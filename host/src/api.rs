//! The routes. Each turns its body into an [`Ask`](crate::chat::Ask) and the answer into its
//! own format; everything in between is [`chat`](crate::chat::chat).

mod admin;
mod body;
mod completions;
mod form;
mod message;
mod observe;
mod origin;
mod pages;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde_json::json;
use tracing::{Instrument, Span};

pub use admin::router as admin;
pub use body::Limits as BodyLimits;
use observe::Arrival;

use crate::chat::{Answer, Ask, Gateway, chat};
use crate::error::Error;
use crate::starts::Starts;
use crate::trace::spans::{self, Held, Outcome};
use crate::trace::{Finished, Logging, Ring};
use crate::types::{SessionId, SessionKey, TenantId};

/// What every route knows.
pub struct App {
    pub gateway: Arc<Gateway>,
    pub bodies: BodyLimits,
    /// Largest policy that the admin routes take.
    pub upload_bytes: usize,
    /// Serve the chat page at `/`.
    pub page: bool,
    /// Where the pages' links to a trace lead; `{trace_id}` stands for its id.
    pub trace_url: String,
    /// The last requests, for the console.
    pub traces: Arc<Ring>,
    /// After so much silence a stream says that it is alive.
    pub heartbeat: Duration,
    /// Continue the trace of a caller's `traceparent`.
    pub traceparent: bool,
    pub started: Instant,
    pub starts: Arc<Starts>,
    pub logging: Logging,
    /// SIGTERM came: no new work.
    pub draining: AtomicBool,
    /// Another process listens already: connections end, each after its answer.
    pub leaving: AtomicBool,
}

impl App {
    fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// The public routes.
pub fn router(app: Arc<App>) -> Router {
    // A request that is no chat is observed here, a chat where its path is known.
    let plain = |route: &'static str, routes: MethodRouter<Arc<App>>| {
        let state = (Arc::clone(&app), route);
        routes.layer(middleware::from_fn_with_state(state, observe::plain))
    };
    let sessions = plain("/sessions/{id}", get(history).delete(forget));
    let models = plain("/v1/models", get(completions::models));
    let page = match app.page {
        true => pages::chat(&app.trace_url),
        false => Router::new(),
    };
    page.route("/chat/stream", post(message::stream))
        .route("/chat", post(message::whole))
        .route("/v1/chat/completions", post(completions::create))
        .route("/v1/models", models)
        .route("/sessions/{id}", sessions)
        .route("/health", get(health))
        .route("/ready", get(ready))
        .fallback(async || Error::NotFound("route"))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), draining))
        .with_state(app)
}

/// While running answers end, everybody else is told to go elsewhere, on this connection too. The
/// chat routes refuse by themselves, after their spans have begun.
async fn draining(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    const OPEN: [&str; 5] = [
        "/health",
        "/ready",
        "/chat",
        "/chat/stream",
        "/v1/chat/completions",
    ];
    let mut response = match app.draining() && !OPEN.contains(&request.uri().path()) {
        true => shutting_down().into_response(),
        false => next.run(request).await,
    };
    if app.draining() || app.leaving.load(Ordering::Relaxed) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

fn shutting_down() -> Error {
    Error::Unavailable("the server is shutting down".into())
}

/// Runs a request under its server span and tells how it ended. What is refused before the head
/// is recorded here, everything else where the answer ends.
async fn serve<F>(
    app: &App,
    route: &'static str,
    headers: &HeaderMap,
    ask: impl FnOnce(Span) -> Result<Ask, Error>,
    respond: F,
) -> Response
where
    F: AsyncFnOnce(Answer, Held) -> Result<Response, Error>,
{
    let (span, arrival) = observe::arrive(app, "POST", route, headers);
    let server = (*span).clone();
    let result = async {
        if app.draining() {
            return Err(shutting_down());
        }
        let mut ask = ask(server.clone())?;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        ask.attributes = app.gateway.policies.attributes(header);
        ask.request_id.clone_from(&arrival.request_id);
        chat(&app.gateway, ask).await
    }
    .instrument(server.clone())
    .await;
    let responded = match result {
        // How the answer ended is recorded where it ended.
        Ok(answer) => respond(answer, span).instrument(server.clone()).await,
        Err(error) => {
            refused(app, route, &server, &error, &arrival);
            Err(error)
        }
    };
    let mut response = responded.unwrap_or_else(IntoResponse::into_response);
    spans::http_status(&server, response.status().as_u16());
    arrival.name(&mut response);
    // The end of a stream is the end of its body, which holds the span; of all else, this is.
    response
}

fn refused(app: &App, route: &'static str, span: &Span, error: &Error, arrival: &Arrival) {
    let (status, _, code) = error.class();
    let outcome = match error {
        Error::Refused { .. } => Outcome::Blocked,
        Error::Overloaded { .. } | Error::Unavailable(_) => Outcome::Overloaded,
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

async fn wrong_method(request: Request) -> Error {
    let path = request.uri().path();
    let allowed = match path {
        "/chat/stream" | "/chat" | "/v1/chat/completions" => "POST",
        path if path.starts_with("/sessions/") => "GET, DELETE",
        _ => "GET",
    };
    Error::Method {
        method: request.method().to_string(),
        allowed,
    }
}

/// Alive: answers whatever the engine does.
async fn health(State(app): State<Arc<App>>) -> Response {
    Json(json!({
        "status": "ok",
        "model": app.gateway.engine.model().name,
        "demo": app.gateway.engine.model().demo,
        "uptime_s": app.started.elapsed().as_secs(),
        "version": env!("CARGO_PKG_VERSION"),
    }))
    .into_response()
}

/// Ready: the model is loaded, the policies are active, no slot is stalled, nothing drains.
async fn ready(State(app): State<Arc<App>>) -> Response {
    match problem(&app) {
        None => Json(json!({ "status": "ready" })).into_response(),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "status": "not ready", "reason": reason })),
        )
            .into_response(),
    }
}

/// Why nobody should be sent here now.
fn problem(app: &App) -> Option<String> {
    let status = app.gateway.engine.status();
    if app.draining() {
        Some(shutting_down().to_string())
    } else if !status.ready {
        let unknown = || "the engine is not ready".into();
        Some(status.reason.unwrap_or_else(unknown))
    } else {
        app.gateway.policies.ready().err()
    }
}

/// The name within a path, refused in the words of this server.
struct Name(String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(_) => Err(Error::invalid(
                "path",
                format!("{} is not UTF-8 behind its percent signs", parts.uri.path()),
            )),
        }
    }
}

fn session_key(id: &str) -> Result<SessionKey, Error> {
    let session = SessionId::parse(id).map_err(|problem| {
        Error::invalid("session_id", problem.trim_start_matches("session_id: "))
    })?;
    Ok(SessionKey {
        tenant: TenantId::default(),
        session,
    })
}

/// A session's history as it is remembered.
async fn history(State(app): State<Arc<App>>, Name(id): Name) -> Result<Response, Error> {
    let session = app.gateway.sessions.load(&session_key(&id)?).await;
    if session.messages.is_empty() {
        return Err(Error::NotFound("session"));
    }
    let messages: Vec<_> = session
        .messages
        .iter()
        .map(|m| json!({ "role": m.role, "text": m.text, "exchange": m.exchange }))
        .collect();
    Ok(Json(json!({ "session_id": id, "messages": messages })).into_response())
}

/// Forgets a session: its history and its KV.
async fn forget(State(app): State<Arc<App>>, Name(id): Name) -> Result<Response, Error> {
    let key = session_key(&id)?;
    app.gateway.engine.forget(&key);
    if app.gateway.sessions.forget(&key).await {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(Error::NotFound("session"))
    }
}
