//! Spans of policies: of each call within a request, and of a change of what serves.

use std::time::Duration;

use opentelemetry::Value;
use tracing::{Span, info_span};

use super::super::semconv::*;
use super::{TARGET, child, event, failed, int, set};

/// Who is called. Nothing in it comes from a request.
#[derive(Clone, Copy, Debug)]
pub struct PolicyCall<'a> {
    /// What it is asked: `guard`, `cache.decide`, `layout`, `trim`, `build`, `filter`,
    /// `cache.admit`.
    pub ask: &'static str,
    pub hook: &'static str,
    pub name: &'a str,
    pub version: &'a str,
    pub sha256: &'a str,
    pub generation: u64,
}

/// `policy {ask}`: one span per question to a guest.
pub fn policy(parent: &Span, call: &PolicyCall<'_>) -> Span {
    let span = child!(parent, "policy", otel.name = format!("policy {}", call.ask));
    set(&span, POLICY_HOOK, call.hook);
    set(&span, POLICY_NAME, call.name.to_owned());
    set(&span, POLICY_VERSION, call.version.to_owned());
    set(&span, POLICY_SHA256, call.sha256.to_owned());
    set(&span, POLICY_GENERATION, int(call.generation));
    span
}

/// How the call ended: `ok`, or the fault's kind (`deadline`, `memory`, `stack`, `trap`,
/// `bad-result`, `refused`, `exhausted`).
pub fn policy_done(span: &Span, outcome: &'static str, memory_peak: usize, took: Duration) {
    set(span, POLICY_OUTCOME, outcome);
    set(span, POLICY_MEMORY_PEAK, int(memory_peak));
    set(span, POLICY_DURATION, int(took.as_micros()));
    if outcome != "ok" {
        failed(span, outcome);
    }
}

/// It was not asked: what it decided before is remembered.
pub fn policy_remembered(span: &Span) {
    set(span, POLICY_OUTCOME, "ok");
    set(span, POLICY_REMEMBERED, true);
}

/// A policy failed: its built-in default decides (`open`) or the request is refused (`closed`).
pub fn policy_fault(server: &Span, hook: &'static str, kind: &'static str, fail: &'static str) {
    let attributes = [
        (POLICY_HOOK, Value::from(hook)),
        (ERROR_TYPE, Value::from(kind)),
        (POLICY_FAIL, Value::from(fail)),
    ];
    event(server, "policy_fault", &attributes);
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
    let span = child!(reload, "reload", otel.name = stage);
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
