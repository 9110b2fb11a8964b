//! `POST /chat/stream` and `POST /chat`: one message of a session that the server remembers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tracing::Span;

use super::{App, body, serve};
use crate::chat::{Answer, Ask, Params, Said};
use crate::error::Error;
use crate::stream::{self, ui};
use crate::types::{Role, Seed, SessionId, TenantId};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    message: String,
    /// Left out: a new session, whose id the answer tells.
    session_id: Option<String>,
    max_tokens: Option<NonZeroU32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i32>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    seed: Option<Seed>,
    #[serde(default)]
    stop: Stop,
}

/// One text, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub(super) enum Stop {
    One(String),
    Many(Vec<String>),
}

impl Default for Stop {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Stop {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

impl Request {
    fn ask(self, route: &'static str, streaming: bool, span: Span) -> Result<Ask, Error> {
        if self.message.trim().is_empty() {
            return Err(Error::invalid(
                "message",
                "found no text, expected a question",
            ));
        }
        let session = match &self.session_id {
            Some(id) => super::session_key(id)?.session,
            None => SessionId::mint()
                .map_err(|e| Error::Internal(format!("no randomness for a session id: {e}")))?,
        };
        Ok(Ask {
            tenant: TenantId::default(),
            session: Some(session),
            messages: vec![Said {
                role: Role::User,
                text: self.message,
            }],
            params: Params {
                max_tokens: self.max_tokens.map(NonZeroU32::get),
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                min_p: self.min_p,
                presence_penalty: self.presence_penalty,
                frequency_penalty: self.frequency_penalty,
                repeat_penalty: self.repeat_penalty,
                seed: self.seed,
                stop: self.stop.into_vec(),
                ..Params::default()
            },
            max_tokens_field: "max_tokens",
            attributes: Vec::new(),
            request_id: None,
            streaming,
            span,
            route,
            arrived: Instant::now(),
        })
    }
}

pub async fn stream(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    const ROUTE: &str = "/chat/stream";
    let read = body::read::<Request>(&headers, body, app.bodies).await;
    serve(
        &app,
        ROUTE,
        &headers,
        |span| read?.ask(ROUTE, true, span),
        async |answer, span| {
            let Answer { head, parts } = answer;
            let mut response = stream::sse(head, parts, ui::Ui::default(), app.heartbeat, span);
            response
                .headers_mut()
                .insert(ui::HEADER.0, HeaderValue::from_static(ui::HEADER.1));
            Ok(response)
        },
    )
    .await
}

pub async fn whole(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    const ROUTE: &str = "/chat";
    let read = body::read::<Request>(&headers, body, app.bodies).await;
    serve(
        &app,
        ROUTE,
        &headers,
        |span| read?.ask(ROUTE, false, span),
        async |answer, _span| {
            let Answer { head, parts } = answer;
            let whole = stream::collect(parts).await?;
            Ok(Json(ui::document(&head, &whole)).into_response())
        },
    )
    .await
}
