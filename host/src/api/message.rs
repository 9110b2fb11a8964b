//! `POST /chat/stream` and `POST /chat`: one message of a session that the server remembers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tracing::Span;
use utoipa::ToSchema;

use super::answering::{Incoming, serve};
use super::{App, name, openapi};
use crate::access::Visit;
use crate::chat::{Answer, Ask, Params, Said};
use crate::error::Error;
use crate::stream::{self, ui};
use crate::types::{Role, Seed, SessionId};

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatRequest)]
#[serde(deny_unknown_fields)]
pub struct Request {
    #[schema(example = "What is diabetes?")]
    message: String,
    /// Left out: a new session, whose id the answer tells.
    #[schema(pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    session_id: Option<String>,
    #[serde(default)]
    trigger: Trigger,
    #[schema(value_type = Option<u32>, minimum = 1)]
    max_tokens: Option<NonZeroU32>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    #[schema(minimum = 0)]
    top_k: Option<i32>,
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    #[schema(minimum = 0.1, maximum = 10)]
    repeat_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    #[schema(value_type = Option<openapi::Seed>)]
    seed: Option<Seed>,
    #[serde(default)]
    stop: Stop,
    /// The answer is written on when the connection is lost, and `GET /chat/stream/{id}` takes it
    /// up again.
    #[serde(default)]
    resume: bool,
}

/// Why the message is sent, in the AI SDK's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// To go on with the conversation.
    #[default]
    SubmitMessage,
    /// For another answer, drawn anew unless a seed is given. It takes the place of the session's
    /// last exchange, once it is complete, where that asked the same; otherwise it is added.
    RegenerateMessage,
}

/// One text, or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub enum Stop {
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
    fn ask(
        self,
        visit: Visit,
        route: &'static str,
        streaming: bool,
        span: Span,
    ) -> Result<Ask, Error> {
        if self.message.trim().is_empty() {
            return Err(Error::invalid(
                "message",
                "found no text, expected a question",
            ));
        }
        let session = match &self.session_id {
            Some(id) => name::session_key(&visit.tenant, id)?.session,
            None => SessionId::mint()
                .map_err(|e| Error::Internal(format!("no randomness for a session id: {e}")))?,
        };
        let regenerates = self.trigger == Trigger::RegenerateMessage;
        Ok(Ask {
            tenant: visit.tenant,
            place: visit.place,
            session: Some(session),
            messages: vec![Said {
                role: Role::User,
                text: self.message,
            }],
            regenerates,
            params: Params {
                max_tokens: self.max_tokens.map(NonZeroU32::get),
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                min_p: self.min_p,
                presence_penalty: self.presence_penalty,
                frequency_penalty: self.frequency_penalty,
                repeat_penalty: self.repeat_penalty,
                // With the same seed it would be the same answer again.
                seed: self.seed.or(regenerates.then_some(Seed::Random)),
                stop: self.stop.into_vec(),
                ..Params::default()
            },
            max_tokens_field: "max_tokens",
            attributes: Vec::new(),
            keep: None,
            request_id: None,
            streaming,
            span,
            route,
            arrived: Instant::now(),
        })
    }
}

/// Answers a message of a session as a stream: the AI SDK's UI message stream, version 1
#[utoipa::path(
    post, path = "/chat/stream", request_body = Request,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
        description = "the same request with the same key is answered once")),
    responses(
        (status = 200, description = "`data:` frames of JSON, each with a `type`; the last one is `[DONE]`", body = openapi::Frame, content_type = "text/event-stream"),
        openapi::Refused,
    )
)]
pub async fn stream(
    State(app): State<Arc<App>>,
    Extension(visit): Extension<Visit>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    const ROUTE: &str = "/chat/stream";
    let (read, mut incoming) = Incoming::read::<Request>(&app, &visit, ROUTE, &headers, body).await;
    incoming.resume = read.as_ref().is_ok_and(|request| request.resume);
    serve(
        &app,
        incoming,
        |span| read?.ask(visit, ROUTE, true, span),
        async |answer| {
            let Answer { head, parts } = answer;
            let times = (app.live().heartbeat, 0);
            let mut response = stream::sse(head, parts, ui::Ui::default(), times);
            response
                .headers_mut()
                .insert(ui::HEADER.0, HeaderValue::from_static(ui::HEADER.1));
            Ok(response)
        },
    )
    .await
}

/// Answers a message of a session as one document
#[utoipa::path(
    post, path = "/chat", request_body = Request,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
        description = "the same request with the same key is answered once")),
    responses(
        (status = 200, description = "the answer", body = openapi::ChatAnswer),
        openapi::Refused,
    )
)]
pub async fn whole(
    State(app): State<Arc<App>>,
    Extension(visit): Extension<Visit>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    const ROUTE: &str = "/chat";
    let (read, mut incoming) = Incoming::read::<Request>(&app, &visit, ROUTE, &headers, body).await;
    incoming.resume = read.as_ref().is_ok_and(|request| request.resume);
    serve(
        &app,
        incoming,
        |span| read?.ask(visit, ROUTE, false, span),
        async |answer| {
            let Answer { head, parts } = answer;
            let whole = stream::collect(parts).await?;
            Ok(Json(ui::document(&head, &whole)).into_response())
        },
    )
    .await
}
