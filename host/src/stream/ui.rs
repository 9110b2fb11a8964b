//! The AI SDK's UI message stream, version 1: `data:` lines of JSON, each with a `type`.

use serde_json::{Value, json};

use super::{Format, Head, Part, Summary, Whole, millis};
use crate::types::Finish;

/// Says to the AI SDK which protocol this is.
pub const HEADER: (&str, &str) = ("x-vercel-ai-ui-message-stream", "v1");

/// The one text block of an answer.
const TEXT: &str = "0";

/// Frames of `/chat/stream`.
#[derive(Default)]
pub struct Ui {
    text_open: bool,
}

impl Format for Ui {
    fn head(&mut self, head: &Head) -> Vec<String> {
        let session = head.session.as_ref().map(|s| s.as_str());
        vec![frame(json!({
            "type": "start",
            "messageId": head.id,
            "messageMetadata": { "session_id": session, "model": head.model },
        }))]
    }

    fn part(&mut self, _: &Head, part: Part) -> Vec<String> {
        match part {
            Part::Queued { position } => {
                vec![note(
                    "queue",
                    true,
                    json!({ "queued": { "position": position } }),
                )]
            }
            Part::Trimmed { dropped } => {
                vec![note(
                    "trim",
                    true,
                    json!({ "trimmed": { "dropped": dropped } }),
                )]
            }
            Part::Text(delta) | Part::Drawn { text: delta, .. } => {
                let mut frames = self.open();
                frames.push(frame(
                    json!({ "type": "text-delta", "id": TEXT, "delta": delta }),
                ));
                frames
            }
            Part::Done(summary) => {
                // An empty answer has its block too: clients wait for one.
                let mut frames = self.open();
                frames.push(frame(json!({ "type": "text-end", "id": TEXT })));
                frames.push(note("summary", false, told(&summary)));
                frames.push(frame(match summary.finish {
                    Finish::Cancelled => json!({ "type": "abort" }),
                    finish => json!({ "type": "finish", "finishReason": reason(finish) }),
                }));
                frames
            }
            Part::Failed(error) => {
                let wire = error.wire().error;
                vec![frame(json!({
                    "type": "error",
                    "errorText": wire.message,
                    "code": wire.code,
                }))]
            }
        }
    }
}

impl Ui {
    fn open(&mut self) -> Vec<String> {
        let first = !std::mem::replace(&mut self.text_open, true);
        first
            .then(|| frame(json!({ "type": "text-start", "id": TEXT })))
            .into_iter()
            .collect()
    }
}

/// The whole answer as `/chat` gives it.
pub fn document(head: &Head, whole: &Whole) -> Value {
    json!({
        "id": head.id,
        "session_id": head.session.as_ref().map(|s| s.as_str()),
        "model": head.model,
        "text": whole.text,
        "finish_reason": reason(whole.summary.finish),
        "stent": told(&whole.summary),
    })
}

/// What the gateway tells about an answer.
fn told(summary: &Summary) -> Value {
    json!({
        "trace_id": summary.trace_id,
        "cached": summary.cached,
        "coalesced": summary.coalesced,
        "generation": summary.generation,
        "ttft_ms": summary.ttft.map(millis),
        "prompt_tokens": summary.prompt_tokens,
        "cached_tokens": summary.cached_tokens,
        "tokens": summary.output_tokens,
        "tokens_per_second": (summary.tokens_per_second * 10.0).round() / 10.0,
    })
}

/// The SDK's finish reasons.
fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::Filtered => "content-filter",
        Finish::Cancelled => "other",
        Finish::Error => "error",
    }
}

/// A data part; one with the same id replaces it, a transient one stays out of the message.
fn note(id: &str, transient: bool, data: Value) -> String {
    frame(json!({ "type": "data-stent", "id": id, "transient": transient, "data": data }))
}

fn frame(value: Value) -> String {
    value.to_string()
}
