//! The routes. Each turns its body into an [`Ask`](crate::chat::Ask) and the answer into its
//! own format; everything in between is [`chat`](crate::chat::chat).

mod admin;
mod answering;
mod body;
mod completions;
mod door;
mod form;
mod health;
mod message;
mod name;
mod observe;
mod openapi;
mod origin;
mod pages;
mod replays;
mod resume;
mod sessions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde_json::Value;

pub use admin::router as admin_routes;
pub use body::Limits as BodyLimits;
pub use replays::{Limits as ReplayLimits, Replays};

use crate::access::Access;
use crate::chat::Gateway;
use crate::error::Error;
use crate::starts::Starts;
use crate::trace::{Logging, Ring};

/// What every route knows.
pub struct App {
    pub gateway: Arc<Gateway>,
    pub access: ArcSwap<Access>,
    pub live: ArcSwap<Live>,
    /// Answers for clients that lost the connection.
    pub replays: Replays,
    /// Largest policy that the admin routes take.
    pub upload_bytes: usize,
    /// Serve the chat page at `/`.
    pub page: bool,
    /// Where the pages' links to a trace lead; `{trace_id}` stands for its id.
    pub trace_url: String,
    /// The last requests, for the console.
    pub traces: Arc<Ring>,
    pub started: Instant,
    pub starts: Arc<Starts>,
    pub logging: Logging,
    /// What is in force, for whoever looks.
    pub config: ArcSwap<Configured>,
    /// SIGTERM came: no new work.
    pub draining: AtomicBool,
    /// Another process listens already: connections end, each after its answer.
    pub leaving: AtomicBool,
}

/// The configuration as `GET /admin/config` tells it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Configured {
    /// Every key, with its secrets hidden.
    pub config: Value,
    /// Keys whose new value holds from the next start on.
    pub next_start: Vec<String>,
}

/// What a request takes from the configuration when it comes in.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    pub bodies: BodyLimits,
    /// After so much silence a stream says that it is alive.
    pub heartbeat: Duration,
    /// Continue the trace of a caller's `traceparent`.
    pub traceparent: bool,
}

impl App {
    fn live(&self) -> Live {
        **self.live.load()
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// The public routes.
pub fn router(app: Arc<App>) -> Router {
    let kept = get(resume::take_up).delete(resume::stop);
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
        .route("/v1/models", get(completions::models))
        .route(
            "/sessions/{id}",
            get(sessions::history).delete(sessions::forget),
        )
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/openapi.json", get(move || openapi::give(document)))
        .fallback(async || Error::NotFound("route"))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            door::public,
        ))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), draining))
        // Around all others, so that what they refuse is told as well.
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            observe::around,
        ))
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

#[cfg(test)]
mod hostile;
