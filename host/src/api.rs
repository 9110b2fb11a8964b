//! The routes. Each turns its body into an [`Ask`](crate::chat::Ask) and the answer into its
//! own format; everything in between is [`chat`](crate::chat::chat).

mod admin;
mod body;
mod completions;
mod door;
mod form;
mod message;
mod observe;
mod openapi;
mod origin;
mod pages;
mod replays;
mod resume;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Extension, FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::{Instrument, Span};

pub use admin::router as admin;
pub use body::Limits as BodyLimits;
use observe::Arrival;
use replays::Claim;
pub use replays::{Limits as ReplayLimits, Replays};

use crate::access::{Access, Visit};
use crate::chat::{Answer, Ask, Gateway, chat};
use crate::error::{Error, Wire};
use crate::starts::Starts;
use crate::trace::spans::{self, Held, Outcome};
use crate::trace::{Finished, Logging, Ring};
use crate::types::{SessionId, SessionKey, TenantId};

/// What every route knows.
pub struct App {
    pub gateway: Arc<Gateway>,
    pub access: Access,
    /// Answers for clients that lost the connection.
    pub replays: Replays,
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
    let kept = get(resume::take_up).delete(resume::stop);
    let kept = plain("/chat/stream/{response_id}", kept);
    let document: Arc<str> = openapi::document().into();
    let page = match app.page {
        true => pages::chat(&app.trace_url),
        false => Router::new(),
    };
    // A test holds these against what /openapi.json tells.
    page.route("/chat/stream", post(message::stream))
        .route("/chat/stream/{response_id}", kept)
        .route("/chat", post(message::whole))
        .route("/v1/chat/completions", post(completions::create))
        .route("/v1/models", models)
        .route("/sessions/{id}", sessions)
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/openapi.json", get(move || openapi::give(document)))
        .fallback(async || Error::NotFound("route"))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            door::public,
        ))
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
    request: Incoming<'_>,
    ask: impl FnOnce(Span) -> Result<Ask, Error>,
    respond: F,
) -> Response
where
    F: AsyncFnOnce(Answer, Held) -> Result<Response, Error>,
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

/// What a request for an answer brings beside its body.
struct Incoming<'a> {
    route: &'static str,
    headers: &'a HeaderMap,
    /// Of its `Idempotency-Key`.
    claim: Result<Option<Arc<Claim>>, Error>,
    /// The client will come back if it loses the connection.
    resume: bool,
}

impl<'a> Incoming<'a> {
    /// Reads the body of a request for an answer.
    async fn read<T: DeserializeOwned>(
        app: &App,
        visit: &Visit,
        route: &'static str,
        headers: &'a HeaderMap,
        body: Body,
    ) -> (Result<T, Error>, Self) {
        let media = ["application/json"];
        let bytes = body::bytes(headers, body, app.bodies, &media).await;
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

fn refused(app: &App, route: &'static str, span: &Span, error: &Error, arrival: &Arrival) {
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

async fn wrong_method(request: Request) -> Error {
    let path = request.uri().path();
    let allowed = match path {
        "/chat/stream" | "/chat" | "/v1/chat/completions" => "POST",
        path if path.starts_with("/sessions/") || path.starts_with("/chat/stream/") => {
            "GET, DELETE"
        }
        _ => "GET",
    };
    Error::Method {
        method: request.method().to_string(),
        allowed,
    }
}

/// Alive: answers whatever the engine does
#[utoipa::path(get, path = "/health", responses((status = 200, description = "alive", body = openapi::Health)))]
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

/// Ready: the model is loaded, the policies are active, no slot is stalled, nothing drains
#[utoipa::path(get, path = "/ready", responses(
    (status = 200, description = "ready", body = openapi::Ready),
    (status = 503, description = "not ready, and why", body = openapi::Ready),
))]
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

fn session_key(tenant: &TenantId, id: &str) -> Result<SessionKey, Error> {
    let session = SessionId::parse(id).map_err(|problem| {
        Error::invalid("session_id", problem.trim_start_matches("session_id: "))
    })?;
    Ok(SessionKey {
        tenant: tenant.clone(),
        session,
    })
}

/// A session's history as it is remembered
#[utoipa::path(
    get, path = "/sessions/{id}", params(("id" = String, Path, description = "the session")),
    responses(
        (status = 200, description = "its messages", body = openapi::History),
        (status = 400, description = "no session id", body = Wire),
        (status = 401, description = "no API key, or an unknown one", body = Wire),
        (status = 404, description = "nothing was said in it", body = Wire),
        (status = 503, description = "shutting down", body = Wire),
    )
)]
async fn history(
    State(app): State<Arc<App>>,
    Extension(visit): Extension<Visit>,
    Name(id): Name,
) -> Result<Response, Error> {
    let key = session_key(&visit.tenant, &id)?;
    let session = app.gateway.sessions.load(&key).await;
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

/// Forgets a session: its history, its kept answers and its KV
#[utoipa::path(
    delete, path = "/sessions/{id}", params(("id" = String, Path, description = "the session")),
    responses(
        (status = 204, description = "forgotten"),
        (status = 400, description = "no session id", body = Wire),
        (status = 401, description = "no API key, or an unknown one", body = Wire),
        (status = 404, description = "nothing was said in it", body = Wire),
        (status = 503, description = "shutting down", body = Wire),
    )
)]
async fn forget(
    State(app): State<Arc<App>>,
    Extension(visit): Extension<Visit>,
    Name(id): Name,
) -> Result<Response, Error> {
    let key = session_key(&visit.tenant, &id)?;
    app.gateway.engine.forget(&key);
    app.replays.forget(&key);
    if app.gateway.sessions.forget(&key).await {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(Error::NotFound("session"))
    }
}

#[cfg(test)]
mod hostile;
