//! What can go wrong with a request, and the one place that maps it to HTTP.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::Denied as NotLetIn;
use crate::engine::EngineError;
use crate::policy::{Denied, Hook};
use crate::session::SessionError;

/// A request's failure. Before the first byte it becomes a status, after it a frame; the words
/// are the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The client's mistake. `field` is the body's field that it is about.
    #[error("{field}: {problem}")]
    Invalid { field: String, problem: String },
    /// The body is no JSON, or cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// No key, the wrong one, or more than its tenant may ask.
    #[error(transparent)]
    NotLetIn(#[from] NotLetIn),
    #[error("no such {0}")]
    NotFound(&'static str),
    #[error("method {method} is not allowed here; allowed: {allowed}")]
    Method {
        method: String,
        allowed: &'static str,
    },
    /// A head that nothing could be asked with.
    #[error(transparent)]
    Head(Head),
    /// Told to a connection that is one too many.
    #[error(
        "{limit} connections are open already, which is the most that server.max_connections allows"
    )]
    Crowded { limit: usize },
    #[error("the body is larger than the {limit} bytes that {key} allows")]
    TooLarge { limit: usize, key: &'static str },
    #[error("the body did not come within the {limit:?} that server.body_timeout allows")]
    SlowBody { limit: Duration },
    #[error("content-type is {found:?}, expected {expected}")]
    MediaType { found: String, expected: String },
    #[error(
        "{waiting} requests are running or waiting already, the limit is {limit} (engine.slots + engine.queue)"
    )]
    Overloaded { waiting: usize, limit: usize },
    /// Draining, still loading, or an engine that stopped.
    #[error("{0}")]
    Unavailable(String),
    /// A policy decided so; the reason is meant for the user.
    #[error("{reason}")]
    Refused { reason: String },
    /// A policy failed and its hook is configured to fail closed.
    #[error("the {hook} policy failed and policies.{hook}.fail is \"closed\"")]
    PolicyFault { hook: Hook },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The reader took too long; only it is cut off.
    #[error("the client read too slowly: {buffered} parts were waiting for {waited:?}")]
    SlowReader { buffered: usize, waited: Duration },
    /// Only a kept answer's reader; it can ask for the rest again.
    #[error(
        "the client read too slowly: more than the {bytes} bytes that are kept of an answer were waiting"
    )]
    Outrun { bytes: usize },
    /// A kept answer that was ended before it was whole.
    #[error("the answer was stopped before its end")]
    Stopped,
    /// The same Idempotency-Key with another request.
    #[error(
        "Idempotency-Key: it came with another request before; expected a new key for a new request"
    )]
    KeyReused,
    #[error("{0}")]
    Internal(String),
}

/// What is wrong with a request's head.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Head {
    #[error("the request's head is not HTTP/1.1")]
    Malformed,
    #[error("the request's address is longer than 65534 bytes")]
    Address,
    #[error("the request's head is larger than the {limit} bytes that server.max_head allows")]
    TooLarge { limit: usize },
}

/// How an error looks on the wire, in OpenAI's shape: every client knows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct Wire {
    pub error: WireError,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ErrorDetails)]
pub struct WireError {
    pub message: String,
    pub r#type: &'static str,
    /// A stable word.
    pub code: &'static str,
    /// The field that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
}

impl Error {
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// Status, OpenAI's `type`, and a stable `code`.
    pub fn class(&self) -> (StatusCode, &'static str, &'static str) {
        const CLIENT: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        match self {
            Self::Invalid { .. } => (StatusCode::BAD_REQUEST, CLIENT, "invalid_value"),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, CLIENT, "malformed_body"),
            Self::NotLetIn(denied) => not_let_in(denied),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, CLIENT, "not_found"),
            Self::Method { .. } => (StatusCode::METHOD_NOT_ALLOWED, CLIENT, "method_not_allowed"),
            Self::Head(Head::Malformed) => (StatusCode::BAD_REQUEST, CLIENT, "malformed_head"),
            Self::Head(Head::Address) => (StatusCode::URI_TOO_LONG, CLIENT, "address_too_long"),
            Self::Head(Head::TooLarge { .. }) => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                CLIENT,
                "head_too_large",
            ),
            Self::Crowded { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                SERVER,
                "too_many_connections",
            ),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, CLIENT, "body_too_large"),
            Self::MediaType { .. } => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                CLIENT,
                "unsupported_media_type",
            ),
            Self::Overloaded { .. } => (
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                "overloaded",
            ),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, SERVER, "unavailable"),
            Self::Refused { .. } => (StatusCode::UNPROCESSABLE_ENTITY, CLIENT, "refused"),
            Self::PolicyFault { .. } => (StatusCode::SERVICE_UNAVAILABLE, SERVER, "policy_fault"),
            Self::Engine(EngineError::TooLong { .. }) => {
                (StatusCode::BAD_REQUEST, CLIENT, "context_length_exceeded")
            }
            Self::Engine(EngineError::Grammar(_)) => {
                (StatusCode::BAD_REQUEST, CLIENT, "invalid_grammar")
            }
            Self::Engine(EngineError::Logprobs(_)) => {
                (StatusCode::BAD_REQUEST, CLIENT, "invalid_value")
            }
            Self::Engine(EngineError::Decode(_) | EngineError::Stalled { .. }) => {
                (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "engine_error")
            }
            Self::Engine(EngineError::Stopped) => {
                (StatusCode::SERVICE_UNAVAILABLE, SERVER, "engine_stopped")
            }
            Self::Engine(EngineError::Abandoned) => {
                (StatusCode::SERVICE_UNAVAILABLE, SERVER, "answer_lost")
            }
            Self::Engine(EngineError::Upstream { .. }) => {
                (StatusCode::BAD_GATEWAY, SERVER, "upstream_error")
            }
            Self::Engine(EngineError::NoUpstream) => {
                (StatusCode::SERVICE_UNAVAILABLE, SERVER, "no_upstream")
            }
            Self::Session(SessionError::Busy { .. }) => {
                (StatusCode::CONFLICT, CLIENT, "session_busy")
            }
            Self::Session(SessionError::Taken) => (StatusCode::CONFLICT, CLIENT, "session_taken"),
            Self::Session(SessionError::Store { .. } | SessionError::Open(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, SERVER, "session_store")
            }
            Self::Session(SessionError::Unreadable(_)) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                SERVER,
                "session_unreadable",
            ),
            Self::SlowBody { .. } => (StatusCode::REQUEST_TIMEOUT, CLIENT, "slow_body"),
            Self::Stopped => (StatusCode::CONFLICT, CLIENT, "answer_stopped"),
            Self::KeyReused => (
                StatusCode::UNPROCESSABLE_ENTITY,
                CLIENT,
                "idempotency_key_reused",
            ),
            Self::SlowReader { .. } | Self::Outrun { .. } => {
                (StatusCode::REQUEST_TIMEOUT, CLIENT, "slow_reader")
            }
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "internal"),
        }
    }

    pub fn wire(&self) -> Wire {
        let (_, r#type, code) = self.class();
        let param = match self {
            Self::Invalid { field, .. } => Some(field.clone()),
            _ => None,
        };
        Wire {
            error: WireError {
                message: self.to_string(),
                r#type,
                code,
                param,
            },
        }
    }

    /// Seconds after which trying again makes sense.
    fn retry_after(&self) -> Option<u64> {
        if let Self::NotLetIn(NotLetIn::Rate { wait, .. }) = self {
            // Whole seconds are all that the header knows.
            return Some(wait.as_secs() + 1);
        }
        let (status, ..) = self.class();
        match status {
            StatusCode::CONFLICT => Some(1),
            StatusCode::TOO_MANY_REQUESTS => Some(2),
            StatusCode::SERVICE_UNAVAILABLE => Some(5),
            _ => None,
        }
    }
}

fn not_let_in(denied: &NotLetIn) -> (StatusCode, &'static str, &'static str) {
    const UNKNOWN: &str = "authentication_error";
    const LIMIT: &str = "rate_limit_error";
    match denied {
        NotLetIn::NoKey | NotLetIn::NoToken => (StatusCode::UNAUTHORIZED, UNKNOWN, "missing_key"),
        NotLetIn::UnknownKey | NotLetIn::WrongToken => {
            (StatusCode::UNAUTHORIZED, UNKNOWN, "invalid_api_key")
        }
        NotLetIn::Renamed => (StatusCode::FORBIDDEN, "permission_error", "unknown_name"),
        NotLetIn::Rate { .. } => (StatusCode::TOO_MANY_REQUESTS, LIMIT, "rate_limited"),
        NotLetIn::Concurrent { .. } => (StatusCode::TOO_MANY_REQUESTS, LIMIT, "too_many_at_once"),
    }
}

/// How to ask again (RFC 9110, section 11.6.1). Browsers ask their user for a password where the
/// basic scheme is offered, which is meant for the admin routes alone.
fn challenge(denied: &NotLetIn) -> Option<&'static str> {
    match denied {
        NotLetIn::NoKey | NotLetIn::UnknownKey => Some("Bearer realm=\"stent\""),
        NotLetIn::NoToken | NotLetIn::WrongToken => {
            Some("Basic realm=\"stent admin\", charset=\"UTF-8\"")
        }
        NotLetIn::Renamed | NotLetIn::Rate { .. } | NotLetIn::Concurrent { .. } => None,
    }
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        match denied {
            // The fault's words are for the operator's log, not for the client.
            Denied::Refused { hook, .. } => Self::PolicyFault { hook },
            Denied::Busy { hook, .. } => Self::Unavailable(format!(
                "too many requests use the {hook} policy at once, try again later"
            )),
            Denied::TooLong { .. } => Self::invalid("message", denied.to_string()),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, ..) = self.class();
        let mut response = (status, Json(self.wire())).into_response();
        if let Some(seconds) = self.retry_after() {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Self::NotLetIn(denied) = &self
            && let Some(challenge) = challenge(denied)
        {
            let challenge = HeaderValue::from_static(challenge);
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Self::TooLarge { .. } | Self::SlowBody { .. } | Self::Crowded { .. } = self {
            // The rest of the body is still to come: nobody can ask again on this connection. And
            // one that is too many makes room.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        if let Self::Method { allowed, .. } = self {
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        response
    }
}
