//! Every span of the tree, one constructor each, in the order in which a request meets them.
//!
//! Two properties of tracing-opentelemetry shape this module. A span that was entered ends at
//! its last exit, not when it is dropped: spans that outlive a function are held in [`Held`],
//! which ends them where they are dropped. And the current span is lost between threads: each
//! constructor takes its parent, and opens its span where the parent was opened, since a thread
//! need not know the subscriber either. Numbers become `i64`, because unsigned ones are exported as
//! text.

mod policies;

use std::borrow::Cow;
use std::ops::Deref;
use std::time::Duration;

use opentelemetry::trace::{SpanContext, Status};
use opentelemetry::{Array, KeyValue, StringValue, Value};
use serde_json::json;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::registry::LookupSpan as _;

pub use super::outcome::Outcome;
use super::propagate;
use super::semconv::*;
use crate::types::{Finish, Message, Sampling};
pub use policies::*;

/// Target of all exported spans. The OpenTelemetry layer takes spans whose target starts with
/// `stent`; those of libraries stay out of the tree.
const TARGET: &str = "stent::span";

/// A span below another; none below a span that nobody records.
macro_rules! child {
    ($parent:expr, $($rest:tt)*) => {
        if $parent.is_none() {
            tracing::Span::none()
        } else {
            $crate::trace::spans::within($parent, || {
                tracing::info_span!(target: TARGET, parent: $parent, $($rest)*)
            })
        }
    };
}
use child;

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

/// Does something where `span` was opened: a span's end is noticed only there.
pub fn within<T>(span: &Span, action: impl FnOnce() -> T) -> T {
    let subscriber = span.with_subscriber(|(_, subscriber)| subscriber.clone());
    tracing::dispatcher::with_default(&subscriber.unwrap_or_default(), action)
}

/// `POST /chat/stream`: the root of a request. `method` is one that HTTP knows, or `_OTHER`; `route`
/// is empty where there is none. `traceparent` is the client's header, already `None` where
/// incoming trace context is not trusted.
pub fn server(method: &str, route: &str, traceparent: Option<&str>) -> Span {
    // As the HTTP conventions name it: without what is the client's own word.
    let verb = if method == "_OTHER" { "HTTP" } else { method };
    let name = match route {
        "" => verb.to_owned(),
        route => format!("{verb} {route}"),
    };
    let span = info_span!(
        target: TARGET, parent: None, "request",
        otel.name = name, otel.kind = "server",
    );
    // Before anything else: once the span has started, its parent is settled.
    propagate::set_parent(&span, traceparent);
    set(&span, HTTP_METHOD, method.to_owned());
    if !route.is_empty() {
        set(&span, HTTP_ROUTE, route.to_owned());
    }
    span
}

/// The response's status code; 5xx marks the server span as failed.
pub fn http_status(server: &Span, code: u16) {
    set(server, HTTP_STATUS, i64::from(code));
    if code >= 500 {
        server.set_status(Status::error(""));
    }
}

/// How the request ended; once per request, on the server span. It says nothing of a failure: a
/// client's mistake is none of the server's (HTTP conventions, span status).
pub fn outcome(server: &Span, outcome: Outcome) {
    set(server, OUTCOME, outcome.as_str());
}

/// The policy generation that the request is pinned to.
pub fn generation(server: &Span, generation: u64) {
    set(server, POLICY_GENERATION, int(generation));
}

/// Waiting for the right to use the engine: `depth` requests have it or wait for it.
pub fn admission(parent: &Span, depth: usize) -> Span {
    let span = child!(parent, "admission");
    set(&span, QUEUE_DEPTH, int(depth));
    span
}

/// The place in the queue that was given: 0 where a slot is free, 1 is the next to get one.
pub fn position(admission: &Span, position: usize) {
    set(admission, QUEUE_POSITION, int(position));
}

pub fn session_load(parent: &Span) -> Span {
    child!(parent, "session.load")
}

/// The store that was used, once, when that is known: `local` where the configured one is in trouble.
pub fn session_place(span: &Span, place: &'static str) {
    set(span, SESSION_STORE, place);
}

/// Exchanges that the session holds, on `session.load` or `session.append`.
pub fn turns(span: &Span, turns: usize) {
    set(span, SESSION_TURNS, int(turns));
}

/// `key`: which identity is looked up, `parts` or `exact`; `none` where the policy gives none.
pub fn cache_lookup(parent: &Span, store: &'static str, key: &'static str) -> Span {
    let span = child!(parent, "cache.lookup");
    set(&span, CACHE_STORE, store);
    set(&span, CACHE_KEY, key);
    span
}

/// What the cache said: `hit`, `miss`, or `bypass` where it was not asked.
pub fn cache_result(span: &Span, result: &'static str) {
    set(span, CACHE_RESULT, result);
}

/// A follower waits for the leader's answer; the link leads to the leader's `chat` span. A leader on
/// another host is known later.
pub fn coalesce_wait(parent: &Span, leader: Option<&SpanContext>) -> Span {
    let span = child!(parent, "coalesce.wait");
    if let Some(leader) = leader {
        waits_for(&span, leader.clone());
    }
    span
}

/// Who the leader is.
pub fn waits_for(wait: &Span, leader: SpanContext) {
    wait.add_link(leader);
}

/// Where sessions lie, or a server that hosts share, could not be used. The request goes on without it,
/// or says why it does not.
pub fn store_failure(span: &Span, kind: &'static str) {
    event(span, "store_failure", &[(ERROR_TYPE, Value::from(kind))]);
}

/// From the engine's acceptance of the job until a slot takes it. The wait is the request's, not
/// the model's: it hangs beside the `chat` span.
pub fn queue_wait(chat: &Span) -> Span {
    if chat.is_none() {
        return Span::none();
    }
    let parent = parent_of(chat).or_else(|| chat.id());
    within(
        chat,
        || info_span!(target: TARGET, parent: parent, "queue.wait"),
    )
}

/// The span under which `span` was opened, as the subscriber knows it.
fn parent_of(span: &Span) -> Option<tracing::span::Id> {
    span.with_subscriber(|(id, subscriber)| {
        let registry = subscriber.downcast_ref::<tracing_subscriber::Registry>()?;
        Some(registry.span(id)?.parent()?.id())
    })
    .flatten()
}

/// `chat {model}`: the inference itself, as the GenAI conventions name it.
pub fn chat(parent: &Span, model: &str, sampling: &Sampling, max_tokens: u32) -> Span {
    chat_by("llama_cpp", parent, model, sampling, max_tokens)
}

/// The same, with whoever does the inference.
pub fn chat_by(
    provider: &'static str,
    parent: &Span,
    model: &str,
    sampling: &Sampling,
    max_tokens: u32,
) -> Span {
    let span = child!(
        parent,
        "chat",
        otel.name = format!("chat {model}"),
        otel.kind = "internal",
    );
    set(&span, OPERATION, "chat");
    set(&span, PROVIDER, provider);
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
pub fn prefill(chat: &Span, slot: usize, prompt: u32, reused: u32) -> Span {
    let span = child!(chat, "prefill");
    set(&span, SLOT, int(slot));
    set(&span, TOKENS_PROMPT, int(prompt));
    set(&span, TOKENS_REUSED, int(reused));
    span
}

/// Drawing the answer's tokens; one span for all of them. It begins with the first token.
pub fn decode(chat: &Span, slot: usize) -> Span {
    event(chat, "first_token", &[(SLOT, Value::I64(int(slot)))]);
    let span = child!(chat, "decode");
    set(&span, SLOT, int(slot));
    span
}

/// The first of `tokens` came out of the prefill: the speed is that of the others.
pub fn decode_done(decode: &Span, tokens: u32, took: Duration) {
    set(decode, TOKENS_OUTPUT, int(tokens));
    if tokens > 1 && !took.is_zero() {
        let speed = f64::from(tokens - 1) / took.as_secs_f64();
        set(decode, TOKENS_PER_SECOND, speed);
    }
}

pub fn session_append(parent: &Span) -> Span {
    child!(parent, "session.append")
}

pub fn cache_store(parent: &Span, store: &'static str, bytes: usize) -> Span {
    let span = child!(parent, "cache.store");
    set(&span, CACHE_STORE, store);
    set(&span, CACHE_BYTES, int(bytes));
    span
}

/// Marks a span as failed with the error's kind: a fixed word, never a message, since messages
/// may quote what a client sent.
pub fn failed(span: &Span, kind: &'static str) {
    set(span, ERROR_TYPE, kind);
    span.set_status(Status::error(kind));
}

/// A moment within a span: `first_byte`, `first_token`, `client_disconnected`, `stopped`,
/// `context_trimmed`, `policy_fault`, `store_failure`. Attributes pass the same allow-list as a span's.
pub fn event(span: &Span, name: &'static str, attributes: &[(&'static str, Value)]) {
    let attributes = attributes
        .iter()
        .map(|(key, value)| KeyValue::new(*key, value.clone()))
        .collect();
    span.add_event(Cow::Borrowed(name), attributes);
}

/// History was left out: so many tokens of messages before and after.
pub fn context_trimmed(server: &Span, before: usize, after: usize, messages: usize) {
    let attributes = [
        (TOKENS_BEFORE, Value::I64(int(before))),
        (TOKENS_AFTER, Value::I64(int(after))),
        (MESSAGES_DROPPED, Value::I64(int(messages))),
    ];
    event(server, "context_trimmed", &attributes);
}

/// What was asked and answered, as the conventions' JSON. Exported only with content capture on.
pub fn content(span: &Span, asked: &[Message], answer: &str, finish: Finish) {
    let text = |text: &str| json!([{ "type": "text", "content": text }]);
    let input: Vec<_> = asked
        .iter()
        .map(|message| json!({ "role": message.role, "parts": text(&message.text) }))
        .collect();
    let reason = finish_reason(finish);
    let output = json!([{ "role": "assistant", "parts": text(answer), "finish_reason": reason }]);
    set(span, INPUT_MESSAGES, json!(input).to_string());
    set(span, OUTPUT_MESSAGES, output.to_string());
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
