//! `POST /v1/chat/completions` and `GET /v1/models`, as OpenAI's clients expect them. Unknown
//! fields are ignored: clients send many.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::Span;
use utoipa::ToSchema;

use super::answering::{Incoming, serve};
use super::form::{LogitBias, ResponseFormat};
use super::message::Stop;
use super::{App, form, name, openapi};
use crate::access::Visit;
use crate::chat::{Answer, Ask, Format, Params, Said};
use crate::error::{Error, Wire};
use crate::stream::{self, openai};
use crate::types::{MOST_TOP, Role, Seed};

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CompletionRequest)]
pub struct Request {
    messages: Vec<Message>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[schema(value_type = Option<u32>, minimum = 1)]
    max_tokens: Option<NonZeroU32>,
    /// The newer name of `max_tokens`.
    #[schema(value_type = Option<u32>, minimum = 1)]
    max_completion_tokens: Option<NonZeroU32>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    #[schema(minimum = 0)]
    top_k: Option<i32>,
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    /// Other servers' clients know it by its longer name.
    #[serde(alias = "repetition_penalty")]
    #[schema(minimum = 0.1, maximum = 10)]
    repeat_penalty: Option<f32>,
    /// Token ids and what is added to their logits, -100 to 100.
    #[schema(value_type = Option<HashMap<String, f32>>)]
    logit_bias: Option<LogitBias>,
    /// `text`, `json_object` or `json_schema`.
    #[schema(value_type = Option<Object>)]
    response_format: Option<ResponseFormat>,
    #[schema(value_type = Option<openapi::Seed>)]
    seed: Option<Seed>,
    #[serde(default)]
    stop: Option<Stop>,
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1)]
    n: Option<NonZeroU32>,
    /// Tell how likely each token was.
    logprobs: Option<bool>,
    /// So many of the likeliest tokens in each place, with `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<u8>,
    // What would change the answer's form and is not there yet: refused, not ignored.
    tools: Option<Value>,
    functions: Option<Value>,
    /// Names a session that the server remembers; without it each request stands alone.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
struct Message {
    /// system, developer, user, assistant, tool or function.
    role: String,
    content: Content,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of text parts")]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

#[derive(Debug, Deserialize, ToSchema)]
struct ContentPart {
    r#type: String,
    #[serde(default)]
    text: String,
}

impl Message {
    fn said(self, at: usize) -> Result<Said, Error> {
        let role = match self.role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" | "function" => Role::Tool,
            found => {
                return Err(Error::invalid(
                    format!("messages[{at}].role"),
                    format!("found {found:?}, expected system, user, assistant or tool"),
                ));
            }
        };
        let text = match self.content {
            Content::Text(text) => text,
            Content::Parts(parts) => match parts.iter().find(|part| part.r#type != "text") {
                None => parts.into_iter().map(|part| part.text).collect(),
                Some(part) => {
                    return Err(Error::invalid(
                        format!("messages[{at}].content"),
                        format!("found a part of type {:?}, expected only text", part.r#type),
                    ));
                }
            },
        };
        Ok(Said { role, text })
    }
}

impl Request {
    /// A client that asks for another form of answer must not take plain text for it.
    fn check_supported(&self) -> Result<(), Error> {
        for (field, list) in [("tools", &self.tools), ("functions", &self.functions)] {
            if let Some(found) = list.as_ref().filter(|list| **list != json!([])) {
                let found = found.as_array().map_or(1, Vec::len);
                return Err(Error::invalid(
                    field,
                    format!("found {found}, expected none: {field} are not supported yet"),
                ));
            }
        }
        Ok(())
    }

    /// How many of the likeliest tokens are told; `None`: no probabilities at all.
    fn likely(&self) -> Result<Option<u8>, Error> {
        let asked = self.logprobs == Some(true);
        match self.top_logprobs {
            Some(most) if !asked => Err(Error::invalid(
                "top_logprobs",
                format!("found {most} without \"logprobs\": true, which it belongs to"),
            )),
            Some(most) if most > MOST_TOP => Err(Error::invalid(
                "top_logprobs",
                format!("found {most}, expected 0 to {MOST_TOP}"),
            )),
            most => Ok(asked.then(|| most.unwrap_or(0))),
        }
    }

    fn ask(self, visit: Visit, streaming: bool, span: Span) -> Result<Ask, Error> {
        self.check_supported()?;
        let logprobs = self.likely()?;
        if let Some(n) = self.n.filter(|&n| n != NonZeroU32::MIN) {
            return Err(Error::invalid("n", format!("found {n}, expected 1")));
        }
        let messages = self
            .messages
            .into_iter()
            .enumerate()
            .map(|(at, message)| message.said(at))
            .collect::<Result<Vec<_>, _>>()?;
        match messages.last() {
            None => {
                return Err(Error::invalid(
                    "messages",
                    "found none, expected at least one",
                ));
            }
            Some(last) if last.role != Role::User => {
                return Err(Error::invalid(
                    "messages",
                    "the last one must be the user's",
                ));
            }
            Some(last) if last.text.trim().is_empty() => {
                let at = messages.len() - 1;
                return Err(Error::invalid(
                    format!("messages[{at}].content"),
                    "found no text",
                ));
            }
            Some(_) => {}
        }
        let most = self.max_completion_tokens.or(self.max_tokens);
        let key = |id| name::session_key(&visit.tenant, id);
        let named = self.session_id.as_deref().map(key);
        let session = named.transpose()?.map(|key| key.session);
        Ok(Ask {
            tenant: visit.tenant,
            place: visit.place,
            session,
            messages,
            regenerates: false,
            params: Params {
                max_tokens: most.map(NonZeroU32::get),
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                min_p: self.min_p,
                presence_penalty: self.presence_penalty,
                frequency_penalty: self.frequency_penalty,
                repeat_penalty: self.repeat_penalty,
                logit_bias: form::biases(self.logit_bias.unwrap_or_default())?,
                format: match self.response_format {
                    Some(format) => format.format()?,
                    None => Format::Text,
                },
                // OpenAI's clients expect another answer each time unless they name a seed.
                seed: Some(self.seed.unwrap_or(Seed::Random)),
                stop: self.stop.unwrap_or_default().into_vec(),
                logprobs,
            },
            max_tokens_field: match self.max_completion_tokens {
                Some(_) => "max_completion_tokens",
                None => "max_tokens",
            },
            attributes: Vec::new(),
            keep: None,
            request_id: None,
            streaming,
            span,
            route: ROUTE,
            arrived: Instant::now(),
        })
    }
}

const ROUTE: &str = "/v1/chat/completions";

/// OpenAI's chat completions
#[utoipa::path(
    post, path = "/v1/chat/completions", request_body = Request,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
        description = "the same request with the same key is answered once")),
    responses(
        (status = 200, description = "the completion; with `stream` a stream of its chunks", body = openapi::Completion),
        openapi::Refused,
    )
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(visit): Extension<Visit>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let (read, incoming) = Incoming::read::<Request>(&app, &visit, ROUTE, &headers, body).await;
    let streaming = read.as_ref().is_ok_and(|r| r.stream.unwrap_or(false));
    let usage = read.as_ref().is_ok_and(|r| {
        r.stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage)
    });
    let likely = read.as_ref().is_ok_and(|r| r.logprobs == Some(true));
    serve(
        &app,
        incoming,
        |span| read?.ask(visit, streaming, span),
        async |answer| {
            let Answer { head, parts } = answer;
            if streaming {
                return Ok(stream::sse(
                    head,
                    parts,
                    openai::Chunks { usage },
                    (app.live().heartbeat, 0),
                ));
            }
            let whole = stream::collect(parts).await?;
            Ok(Json(openai::document(&head, &whole, likely)).into_response())
        },
    )
    .await
}

/// The loaded model
#[utoipa::path(get, path = "/v1/models", responses(
    (status = 200, description = "a list of one", body = openapi::Models),
    (status = 401, description = "no API key, or an unknown one", body = Wire),
    (status = 503, description = "shutting down", body = Wire),
))]
pub async fn models(State(app): State<Arc<App>>) -> Response {
    let model = app.gateway.engine.model();
    Json(json!({
        "object": "list",
        "data": [{
            "id": model.name,
            "object": "model",
            "created": 0,
            "owned_by": "stent",
            "context_window": model.n_ctx,
        }],
    }))
    .into_response()
}
