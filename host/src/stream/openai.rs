//! OpenAI's chat completion objects: chunks for a stream, one document otherwise.

use serde_json::{Value, json};

use super::{Format, Head, Part, Summary, Whole};
use crate::error::Error;
use crate::types::{Finish, Likely, Logprob};

/// Chunks of `/v1/chat/completions`.
pub struct Chunks {
    /// The client asked for `stream_options.include_usage`.
    pub usage: bool,
}

impl Format for Chunks {
    fn head(&mut self, head: &Head) -> Vec<String> {
        vec![chunk(
            head,
            json!({ "role": "assistant", "content": "" }),
            None,
        )]
    }

    fn part(&mut self, head: &Head, part: Part) -> Vec<String> {
        match part {
            // Clients of this route know no other frames than chunks.
            Part::Queued { .. } | Part::Trimmed { .. } => Vec::new(),
            Part::Text(text) => vec![chunk(head, json!({ "content": text }), None)],
            Part::Drawn { text, logprobs } => {
                let choice = json!([{ "index": 0, "delta": { "content": text },
                    "finish_reason": null, "logprobs": told(&logprobs) }]);
                vec![object(head, "chat.completion.chunk", choice).to_string()]
            }
            // It has no word for it that would not pass for a whole answer.
            Part::Done(summary) if summary.finish == Finish::Cancelled => {
                self.part(head, Part::Failed(Error::Stopped))
            }
            Part::Done(summary) => {
                let mut frames = vec![chunk(head, json!({}), Some(reason(summary.finish)))];
                if self.usage {
                    let mut last = object(head, "chat.completion.chunk", json!([]));
                    last["usage"] = usage(&summary);
                    last["stent"] = json!({ "trace_id": summary.trace_id, "cached": summary.cached,
                        "coalesced": summary.coalesced, "generation": summary.generation });
                    frames.push(last.to_string());
                }
                frames
            }
            // A flat shape is silently swallowed by OpenAI's clients; this one they raise.
            Part::Failed(error) => vec![json!({ "error": error.wire().error }).to_string()],
        }
    }
}

/// The whole answer. `likely`: the client asked how likely its tokens were.
pub fn document(head: &Head, whole: &Whole, likely: bool) -> Value {
    let choice = json!([{
        "index": 0,
        "message": { "role": "assistant", "content": whole.text },
        "finish_reason": reason(whole.summary.finish),
        "logprobs": likely.then(|| told(&whole.logprobs)),
    }]);
    let mut document = object(head, "chat.completion", choice);
    document["usage"] = usage(&whole.summary);
    document
}

/// OpenAI's `logprobs`. A token that is no whole character is told exactly in its bytes alone.
fn told(logprobs: &[Logprob]) -> Value {
    let one = |likely: &Likely| {
        json!({
            "token": String::from_utf8_lossy(&likely.bytes),
            "logprob": likely.logprob,
            "bytes": likely.bytes,
        })
    };
    let all = logprobs.iter().map(|logprob| {
        let mut told = one(&logprob.drawn);
        told["top_logprobs"] = logprob.top.iter().map(one).collect();
        told
    });
    json!({ "content": all.collect::<Vec<_>>(), "refusal": null })
}

fn chunk(head: &Head, delta: Value, finish: Option<&str>) -> String {
    let choice = json!([{ "index": 0, "delta": delta, "finish_reason": finish }]);
    object(head, "chat.completion.chunk", choice).to_string()
}

fn object(head: &Head, kind: &str, choices: Value) -> Value {
    json!({
        "id": head.id,
        "object": kind,
        "created": head.created,
        "model": head.model,
        "choices": choices,
    })
}

fn usage(summary: &Summary) -> Value {
    json!({
        "prompt_tokens": summary.prompt_tokens,
        "completion_tokens": summary.output_tokens,
        "total_tokens": summary.prompt_tokens + summary.output_tokens,
        "prompt_tokens_details": { "cached_tokens": summary.cached_tokens },
    })
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Filtered => "content_filter",
        Finish::Stop | Finish::Cancelled | Finish::Error => "stop",
    }
}
