//! `GET /openapi.json`: the public routes as their handlers describe themselves, and the shapes
//! of what they answer. Tests hold the shapes against real answers.

#![allow(dead_code, reason = "shapes that only utoipa's derive reads")]

use std::collections::BTreeMap;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::SecurityRequirement;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{IntoResponses, OpenApi, ToSchema};

use super::{admin, completions, health, message, resume, sessions};
use crate::error::Wire;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Stent",
        description = "An LLM inference gateway. Errors have OpenAI's shape on every route; after the \
                   head of a stream they are its last frame."
    ),
    paths(
        message::stream,
        message::whole,
        resume::take_up,
        resume::stop,
        completions::create,
        completions::models,
        sessions::history,
        sessions::forget,
        health::health,
        health::ready,
    )
)]
struct About;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Stent's admin routes",
        description = "On an address of their own. Errors have OpenAI's shape on every route."
    ),
    paths(
        admin::metrics,
        admin::policies::policies,
        admin::policies::upload,
        admin::policies::reload,
        admin::policies::rollback,
        admin::policies::promote,
        admin::policies::configure,
        admin::policies::history,
        admin::alarms,
        admin::audit,
        admin::config,
        admin::slots,
        admin::status,
        admin::log,
        admin::set_log,
        admin::reset_log,
        admin::traces,
    )
)]
struct Admin;

/// The description of the public routes as JSON, written once.
pub fn document() -> String {
    written(About::openapi())
}

/// The description of the admin routes.
pub fn admin() -> String {
    written(Admin::openapi())
}

fn written(mut described: utoipa::openapi::OpenApi) -> String {
    let key = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = described.components.get_or_insert_default();
    components.add_security_scheme("key", key);
    // Where no keys are configured, none is needed.
    let (with, without) = (
        SecurityRequirement::new::<_, _, &str>("key", []),
        SecurityRequirement::default(),
    );
    described.security = Some(vec![with, without]);
    // Plain data always has a JSON form.
    serde_json::to_string_pretty(&described).unwrap_or_default()
}

/// `GET /openapi.json`.
pub async fn give(document: std::sync::Arc<str>) -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        document.to_string(),
    )
        .into_response()
}

/// What a request for an answer may be refused with.
#[derive(IntoResponses)]
pub enum Refused {
    /// A mistake in the request: `param` names the field
    #[response(status = 400)]
    Invalid(Wire),
    /// No API key, or an unknown one
    #[response(status = 401)]
    NotLetIn(Wire),
    /// The body did not come in time, or the answer was not read in time
    #[response(status = 408)]
    Slow(Wire),
    /// Another request of this session is still running; Retry-After says when to come again
    #[response(status = 409)]
    Busy(Wire),
    /// The body is too large
    #[response(status = 413)]
    TooLarge(Wire),
    /// The body is not application/json
    #[response(status = 415)]
    MediaType(Wire),
    /// A policy refused it, or the Idempotency-Key belongs to another request
    #[response(status = 422)]
    Policy(Wire),
    /// No place, or too many requests of this tenant; Retry-After says when to come again
    #[response(status = 429)]
    Overloaded(Wire),
    /// The engine failed, or the session cannot be read
    #[response(status = 500)]
    Failed(Wire),
    /// Shutting down, not ready, or the session store failed; Retry-After says when to come again
    #[response(status = 503)]
    Unavailable(Wire),
}

/// What a request of an operator may be refused with.
#[derive(IntoResponses)]
pub enum Kept {
    /// A mistake in the request: `param` names the field
    #[response(status = 400)]
    Invalid(Wire),
    /// No admin token, or a wrong one
    #[response(status = 401)]
    NotLetIn(Wire),
    /// Asked by another site's page, or under a name that is none of this machine's
    #[response(status = 403)]
    Foreign(Wire),
    /// The body did not come in time
    #[response(status = 408)]
    Slow(Wire),
    /// The body is too large
    #[response(status = 413)]
    TooLarge(Wire),
    /// The body is of another media type
    #[response(status = 415)]
    MediaType(Wire),
    /// A file that should be read cannot be
    #[response(status = 500)]
    Failed(Wire),
    /// Shutting down
    #[response(status = 503)]
    Unavailable(Wire),
}

/// One event of a stream.
#[derive(ToSchema)]
pub struct Frame {
    /// Of an answer that is kept: rising from 1.
    id: Option<String>,
    /// JSON with a `type`, or `[DONE]`.
    data: String,
}

/// A number, or a word.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Seed {
    Number(i64),
    Word(SeedWord),
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SeedWord {
    /// From the prompt: the same question in the same state gives the same answer.
    Derived,
    /// Another answer each time.
    Random,
}

/// An answer of `POST /chat`.
#[derive(ToSchema)]
pub struct ChatAnswer {
    id: String,
    session_id: Option<String>,
    model: String,
    text: String,
    finish_reason: FinishReason,
    stent: Told,
}

#[derive(ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FinishReason {
    Stop,
    Length,
    ContentFilter,
    Other,
    Error,
}

/// How an answer came about.
#[derive(ToSchema)]
pub struct Told {
    trace_id: Option<String>,
    /// From the cache.
    cached: bool,
    /// Shared with an identical question that was running already.
    coalesced: bool,
    /// The policy generation that served it.
    generation: u64,
    ttft_ms: Option<f64>,
    prompt_tokens: u32,
    /// Prompt tokens that needed no computing.
    cached_tokens: u32,
    tokens: u32,
    tokens_per_second: f64,
}

/// OpenAI's chat completion object.
#[derive(ToSchema)]
pub struct Completion {
    id: String,
    object: String,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    usage: Usage,
}

#[derive(ToSchema)]
pub struct Choice {
    index: u32,
    message: ChoiceMessage,
    finish_reason: Option<String>,
    logprobs: Option<Logprobs>,
}

/// How likely each token of the answer was.
#[derive(ToSchema)]
pub struct Logprobs {
    content: Vec<Logprob>,
    refusal: Option<String>,
}

#[derive(ToSchema)]
pub struct Logprob {
    token: String,
    /// The natural logarithm of its probability, before anything of the request changed it.
    logprob: f32,
    /// Exact, where a token is no whole character.
    bytes: Vec<u8>,
    /// The likeliest tokens in its place, the likeliest first.
    top_logprobs: Vec<Likely>,
}

#[derive(ToSchema)]
pub struct Likely {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

#[derive(ToSchema)]
pub struct ChoiceMessage {
    role: String,
    content: String,
}

#[derive(ToSchema)]
pub struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
}

#[derive(ToSchema)]
pub struct PromptDetails {
    cached_tokens: u32,
}

#[derive(ToSchema)]
pub struct Models {
    object: String,
    data: Vec<Model>,
}

#[derive(ToSchema)]
pub struct Model {
    id: String,
    object: String,
    created: u64,
    owned_by: String,
    context_window: u32,
}

/// A session's history, oldest first.
#[derive(ToSchema)]
pub struct History {
    session_id: String,
    messages: Vec<Remembered>,
}

#[derive(ToSchema)]
pub struct Remembered {
    role: String,
    text: String,
    exchange: u32,
}

#[derive(ToSchema)]
pub struct Health {
    status: String,
    model: String,
    /// The bundled demo model: no medical advice.
    demo: bool,
    uptime_s: u64,
    version: String,
}

#[derive(ToSchema)]
pub struct Ready {
    status: String,
    /// Why it is not.
    reason: Option<String>,
    /// What it does without, and why: `sessions`.
    degraded: Option<BTreeMap<String, String>>,
}
