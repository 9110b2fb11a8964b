//! Every span of the tree, one constructor each, in the order in which a request meets them.
//!
//! Two properties of tracing-opentelemetry shape this module. A span that was entered ends at
//! its last exit, not when it is dropped: spans that outlive a function are held in [`Held`],
//! which ends them where they are dropped. And the current span is lost between threads: each
//! constructor takes its parent. Numbers become `i64`, because unsigned ones are exported as text.

use std::borrow::Cow;
use std::ops::Deref;
use std::time::Duration;

use opentelemetry::trace::{SpanContext, Status};
use opentelemetry::{Array, KeyValue, StringValue, Value};
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub use super::outcome::Outcome;
use super::propagate;
use super::semconv::*;
use crate::types::{Finish, Sampling};

/// Target of all exported spans. The OpenTelemetry layer takes spans whose target starts with
/// `stent`; those of libraries stay out of the tree.
const TARGET: &str = "stent::span";

/// A span that ends when this is dropped. For the server span, which lives in the response body
/// until the last byte has left, and for stages that a stream holds across polls.
#[derive(Debug)]
pub struct Held(Span);

impl Held {
    pub fn new(span: Span) -> Self {
        Self(span)
    }
}

impl Deref for Held {
    type Target = Span;
    fn deref(&self) -> &Span {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The last exit is the end that is exported.
        self.0.in_scope(|| {});
    }
}

/// `POST /chat/stream`: the root of a request. `traceparent` is the client's header, already
/// `None` where incoming trace context is not trusted.
pub fn server(method: &str, route: &str, traceparent: Option<&str>) -> Span {
    let span = info_span!(
        target: TARGET, parent: None, "request",
        otel.name = format!("{method} {route}"), otel.kind = "server",
    );
    // Before anything else: once the span has started, its parent is settled.
    propagate::set_parent(&span, traceparent);
    set(&span, HTTP_METHOD, method.to_owned());
    set(&span, HTTP_ROUTE, route.to_owned());
    span
}

/// The response's status code; 5xx marks the server span as failed.
pub fn http_status(server: &Span, code: u16) {
    set(server, HTTP_STATUS, i64::from(code));
    if code >= 500 {
        server.set_status(Status::error(""));
    }
}

/// How the request ended; once per request, on the server span.
pub fn outcome(server: &Span, outcome: Outcome) {
    set(server, OUTCOME, outcome.as_str());
    if outcome == Outcome::Error {
        server.set_status(Status::error(""));
    }
}

/// The policy generation that the request is pinned to.
pub fn generation(server: &Span, generation: u64) {
    set(server, POLICY_GENERATION, int(generation));
}

/// Waiting for the right to use the engine: `depth` requests have it or wait for it.
pub fn admission(parent: &Span, depth: usize) -> Span {
    let span = info_span!(target: TARGET, parent: parent, "admission");
    set(&span, QUEUE_DEPTH, int(depth));
    span
}

/// Place in the queue, on `admission` or `queue.wait`.
pub fn position(span: &Span, position: usize) {
    set(span, QUEUE_POSITION, int(position));
}

pub fn session_load(parent: &Span, store: &'static str) -> Span {
    let span = info_span!(target: TARGET, parent: parent, "session.load");
    set(&span, SESSION_STORE, store);
    span
}

/// Exchanges that the session holds, on `session.load` or `session.append`.
pub fn turns(span: &Span, turns: usize) {
    set(span, SESSION_TURNS, int(turns));
}

/// Who is called. Nothing in it comes from a request.
#[derive(Clone, Copy, Debug)]
pub struct PolicyCall<'a> {
    /// `guard`, `cache.decide`, `trim`, `build`, `output-filter`, `cache.admit`.
    pub hook: &'static str,
    pub name: &'a str,
    pub version: &'a str,
    pub sha256: &'a str,
    pub generation: u64,
}

/// `policy {hook}`: one span per call of a guest.
pub fn policy(parent: &Span, call: &PolicyCall<'_>) -> Span {
    let span = info_span!(
        target: TARGET, parent: parent, "policy",
        otel.name = format!("policy {}", call.hook),
    );
    set(&span, POLICY_HOOK, call.hook);
    set(&span, POLICY_NAME, call.name.to_owned());
    set(&span, POLICY_VERSION, call.version.to_owned());
    set(&span, POLICY_SHA256, call.sha256.to_owned());
    set(&span, POLICY_GENERATION, int(call.generation));
    span
}

/// How the call ended: `ok`, or the fault's kind (`deadline`, `memory`, `trap`, `bad-result`).
pub fn policy_done(span: &Span, outcome: &'static str, memory_peak: u64, took: Duration) {
    set(span, POLICY_OUTCOME, outcome);
    set(span, POLICY_MEMORY_PEAK, int(memory_peak));
    set(span, POLICY_DURATION, int(took.as_micros()));
    if outcome != "ok" {
        failed(span, outcome);
    }
}

/// `key`: which identity is looked up, `parts` or `exact`.
pub fn cache_lookup(parent: &Span, store: &'static str, key: &'static str) -> Span {
    let span = info_span!(target: TARGET, parent: parent, "cache.lookup");
    set(&span, CACHE_STORE, store);
    set(&span, CACHE_KEY, key);
    span
}

/// What the cache said: `hit`, `miss` or `bypass`.
pub fn cache_result(span: &Span, result: &'static str) {
    set(span, CACHE_RESULT, result);
}

/// A follower waits for the leader's answer; the link leads to the leader's `chat` span.
pub fn coalesce_wait(parent: &Span, leader: &SpanContext) -> Span {
    let span = info_span!(target: TARGET, parent: parent, "coalesce.wait");
    span.add_link(leader.clone());
    span
}

/// From the engine's acceptance of the job until a slot takes it. Its parent is the server span.
pub fn queue_wait(parent: &Span) -> Span {
    info_span!(target: TARGET, parent: parent, "queue.wait")
}

/// `chat {model}`: the inference itself, as the GenAI conventions name it.
pub fn chat(parent: &Span, model: &str, sampling: &Sampling, max_tokens: u32) -> Span {
    let span = info_span!(
        target: TARGET, parent: parent, "chat",
        otel.name = format!("chat {model}"), otel.kind = "internal",
    );
    set(&span, OPERATION, "chat");
    set(&span, PROVIDER, "llama_cpp");
    set(&span, REQUEST_MODEL, model.to_owned());
    set(&span, RESPONSE_MODEL, model.to_owned());
    set(&span, REQUEST_MAX_TOKENS, int(max_tokens));
    set(&span, REQUEST_SEED, sampling.seed.cast_signed());
    set(&span, REQUEST_TEMPERATURE, real(sampling.temperature));
    set(&span, REQUEST_TOP_K, int(sampling.top_k));
    set(&span, REQUEST_TOP_P, real(sampling.top_p));
    set(
        &span,
        REQUEST_FREQUENCY_PENALTY,
        real(sampling.frequency_penalty),
    );
    set(
        &span,
        REQUEST_PRESENCE_PENALTY,
        real(sampling.presence_penalty),
    );
    span
}

/// Where the seed came from: `client`, `derived` or `random`.
pub fn seed_source(chat: &Span, source: &'static str) {
    set(chat, SEED_SOURCE, source);
}

/// The slot that runs the job.
pub fn slot(chat: &Span, slot: usize) {
    set(chat, SLOT, int(slot));
}

/// The answer's end and its cost. `cached` of the `input` tokens needed no computing.
pub fn chat_done(chat: &Span, finish: Finish, input: u32, cached: u32, output: u32) {
    let reason = StringValue::from(finish_reason(finish));
    set(
        chat,
        RESPONSE_FINISH,
        Value::Array(Array::String(vec![reason])),
    );
    set(chat, USAGE_INPUT, int(input));
    set(chat, USAGE_CACHED, int(cached));
    set(chat, USAGE_OUTPUT, int(output));
    if finish == Finish::Error {
        failed(chat, "engine");
    }
}

/// Computing the prompt: `reused` of its `prompt` tokens were in the KV cache already.
pub fn prefill(chat: &Span, prompt: u32, reused: u32) -> Span {
    let span = info_span!(target: TARGET, parent: chat, "prefill");
    set(&span, TOKENS_PROMPT, int(prompt));
    set(&span, TOKENS_REUSED, int(reused));
    span
}

/// Drawing the answer's tokens; one span for all of them.
pub fn decode(chat: &Span) -> Span {
    info_span!(target: TARGET, parent: chat, "decode")
}

pub fn decode_done(decode: &Span, tokens: u32, took: Duration) {
    set(decode, TOKENS_OUTPUT, int(tokens));
    if !took.is_zero() {
        set(
            decode,
            TOKENS_PER_SECOND,
            f64::from(tokens) / took.as_secs_f64(),
        );
    }
}

pub fn session_append(parent: &Span, store: &'static str) -> Span {
    let span = info_span!(target: TARGET, parent: parent, "session.append");
    set(&span, SESSION_STORE, store);
    span
}

pub fn cache_store(parent: &Span, store: &'static str, bytes: usize) -> Span {
    let span = info_span!(target: TARGET, parent: parent, "cache.store");
    set(&span, CACHE_STORE, store);
    set(&span, CACHE_BYTES, int(bytes));
    span
}

/// A change of the policies: a root of its own. `file` is a file's name.
pub fn policy_reload(file: &str) -> Span {
    let span = info_span!(target: TARGET, parent: None, "policy.reload");
    set(&span, POLICY_FILE, file.to_owned());
    span
}

/// One step of a reload: `settle`, `verify`, `compile`, `instantiate`, `probe`, `cases`, `swap`,
/// `drain`.
pub fn reload_stage(reload: &Span, stage: &'static str) -> Span {
    let span = info_span!(target: TARGET, parent: reload, "reload", otel.name = stage);
    set(&span, RELOAD_STAGE, stage);
    span
}

/// The policy that serves from now on.
#[derive(Clone, Copy, Debug)]
pub struct Reloaded<'a> {
    pub hook: &'static str,
    pub name: &'a str,
    pub version: &'a str,
    pub sha256: &'a str,
}

pub fn reloaded(reload: &Span, policy: &Reloaded<'_>) {
    set(reload, POLICY_HOOK, policy.hook);
    set(reload, POLICY_NAME, policy.name.to_owned());
    set(reload, POLICY_VERSION, policy.version.to_owned());
    set(reload, POLICY_SHA256, policy.sha256.to_owned());
}

/// How the reload ended, `swapped`, `unchanged`, `gone` and their like, and the generation that
/// serves.
pub fn reload_done(reload: &Span, result: &'static str, generation: u64) {
    set(reload, RELOAD_RESULT, result);
    set(reload, POLICY_GENERATION, int(generation));
}

/// Where a file was rejected, and why: a sentence about the file, never about a request.
pub fn reload_rejected(reload: &Span, stage: &'static str, reason: &str, generation: u64) {
    reload_done(reload, "rejected", generation);
    set(reload, RELOAD_STAGE, stage);
    set(reload, RELOAD_REASON, reason.to_owned());
    failed(reload, stage);
}

/// Marks a span as failed with the error's kind: a fixed word, never a message, since messages
/// may quote what a client sent.
pub fn failed(span: &Span, kind: &'static str) {
    set(span, ERROR_TYPE, kind);
    span.set_status(Status::error(kind));
}

/// A moment within a span: `first_byte`, `first_token`, `client_disconnected`,
/// `context_trimmed`, `policy_fault`. Attributes pass the same allow-list as a span's.
pub fn event(span: &Span, name: &'static str, attributes: &[(&'static str, Value)]) {
    let attributes = attributes
        .iter()
        .map(|(key, value)| KeyValue::new(*key, value.clone()))
        .collect();
    span.add_event(Cow::Borrowed(name), attributes);
}

/// Context was dropped to fit the budget.
pub fn context_trimmed(server: &Span, before: u32, after: u32, messages: usize) {
    let attributes = [
        (TOKENS_BEFORE, Value::I64(int(before))),
        (TOKENS_AFTER, Value::I64(int(after))),
        (MESSAGES_DROPPED, Value::I64(int(messages))),
    ];
    event(server, "context_trimmed", &attributes);
}

/// A policy failed and its built-in default (`open`) or a refusal (`closed`) took its place.
pub fn policy_fault(server: &Span, hook: &'static str, kind: &'static str) {
    let attributes = [
        (POLICY_HOOK, Value::from(hook)),
        (ERROR_TYPE, Value::from(kind)),
    ];
    event(server, "policy_fault", &attributes);
}

/// What was asked and answered, as the conventions' JSON. Exported only with content capture on.
pub fn content(chat: &Span, input: &str, output: &str) {
    set(chat, INPUT_MESSAGES, input.to_owned());
    set(chat, OUTPUT_MESSAGES, output.to_owned());
}

/// The reason in the words of the GenAI conventions.
pub fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::Filtered => "content_filter",
        Finish::Cancelled => "cancelled",
        Finish::Error => "error",
    }
}

fn set(span: &Span, key: &'static str, value: impl Into<Value>) {
    span.set_attribute(key, value);
}

fn int(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}

/// 0.7 stays 0.7: a plain cast would make 0.699999988 of it.
fn real(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}
