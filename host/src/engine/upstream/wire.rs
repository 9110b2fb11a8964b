//! OpenAI's API from the client's side: the body of a request, and the frames of a streamed answer.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::settings::Api;
use crate::engine::Job;
use crate::types::{Finish, Likely, Logprob, Role, Sampling};

/// OpenAI's servers accept so many; the rest is watched for here, as all of them are.
const MOST_STOPS: usize = 4;

/// Path and body of the request.
pub fn request(shared: &Shared, job: &Job, model: &str) -> (&'static str, Value) {
    let mut body = json!({
        "model": model,
        "stream": true,
        "stream_options": { "include_usage": true },
        "max_tokens": job.max_tokens,
        // Servers disagree on how large a seed may be; all take 31 bits.
        "seed": job.sampling.seed & 0x7fff_ffff,
    });
    sampling(&mut body, &job.sampling);
    if !job.stop.is_empty() {
        body["stop"] = json!(job.stop.iter().take(MOST_STOPS).collect::<Vec<_>>());
    }
    let path = match shared.settings.upstream.api {
        Api::Chat => {
            let said = job.messages.iter().map(|message| {
                let role = match message.role {
                    Role::System => "system",
                    Role::User => "user",
                    Role::Assistant => "assistant",
                    Role::Tool => "tool",
                };
                json!({ "role": role, "content": &*message.text })
            });
            body["messages"] = said.collect();
            "/chat/completions"
        }
        Api::Completions => {
            body["prompt"] = shared.vocabulary.text(&job.prompt).into();
            "/completions"
        }
        Api::Tokens => {
            body["prompt"] = json!(&*job.prompt);
            // The built prompt begins with its own beginning of text.
            body["add_special_tokens"] = false.into();
            "/completions"
        }
    };
    (path, body)
}

/// What every server knows always, and what only some know where it is asked for.
fn sampling(body: &mut Value, how: &Sampling) {
    body["temperature"] = how.temperature.into();
    body["top_p"] = how.top_p.into();
    body["top_k"] = how.top_k.into();
    body["min_p"] = how.min_p.into();
    if how.presence_penalty != 0.0 {
        body["presence_penalty"] = how.presence_penalty.into();
    }
    if how.frequency_penalty != 0.0 {
        body["frequency_penalty"] = how.frequency_penalty.into();
    }
    if (how.repeat_penalty - 1.0).abs() > f32::EPSILON {
        // llama.cpp's name and vLLM's.
        body["repeat_penalty"] = how.repeat_penalty.into();
        body["repetition_penalty"] = how.repeat_penalty.into();
    }
    if let Some(most) = how.logprobs {
        body["logprobs"] = true.into();
        body["top_logprobs"] = most.into();
    }
    if !how.logit_bias.is_empty() {
        let biases = how.logit_bias.iter();
        let biases = biases.map(|(token, bias)| (token.to_string(), Value::from(*bias)));
        body["logit_bias"] = Value::Object(biases.collect());
    }
}

/// One frame of the answer.
#[derive(Debug, PartialEq)]
pub enum Frame {
    /// Text, if any, and why the answer ended, once it did.
    Piece {
        text: String,
        /// Of the tokens of this text, where they were asked for and the server tells them.
        logprobs: Vec<Logprob>,
        finish: Option<Finish>,
        usage: Option<Usage>,
    },
    Error(String),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub prompt: u32,
    pub cached: u32,
    pub output: u32,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    text: Option<String>,
    delta: Option<Delta>,
    logprobs: Option<Told>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Told {
    content: Option<Vec<One>>,
}

#[derive(Deserialize)]
struct One {
    token: String,
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    logprob: f32,
    #[serde(default)]
    top_logprobs: Vec<One>,
}

impl One {
    fn likely(self) -> Likely {
        Likely {
            bytes: self.bytes.unwrap_or_else(|| self.token.into_bytes()),
            logprob: self.logprob,
        }
    }

    fn read(mut self) -> Logprob {
        let top = std::mem::take(&mut self.top_logprobs);
        Logprob {
            drawn: self.likely(),
            top: top.into_iter().map(One::likely).collect(),
        }
    }
}

#[derive(Deserialize)]
struct WireUsage {
    #[serde(default)]
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

/// Reads the `data` of one frame.
pub fn frame(data: &str) -> Frame {
    if data == "[DONE]" {
        return Frame::Done;
    }
    let chunk: Chunk = match serde_json::from_str(data) {
        Ok(chunk) => chunk,
        Err(error) => return Frame::Error(format!("a frame is no completion: {error}")),
    };
    if let Some(error) = chunk.error {
        return Frame::Error(message(&error));
    }
    let mut piece = (String::new(), None);
    let mut logprobs = Vec::new();
    if let Some(choice) = chunk.choices.into_iter().next() {
        let told = choice.logprobs.and_then(|told| told.content);
        logprobs.extend(told.into_iter().flatten().map(One::read));
        let delta = choice.delta.and_then(|delta| delta.content);
        piece.0 = delta.or(choice.text).unwrap_or_default();
        piece.1 = choice.finish_reason.as_deref().map(|reason| match reason {
            "length" => Finish::Length,
            "content_filter" => Finish::Filtered,
            _ => Finish::Stop,
        });
    }
    Frame::Piece {
        text: piece.0,
        logprobs,
        finish: piece.1,
        usage: chunk.usage.map(|usage| Usage {
            prompt: usage.prompt_tokens,
            cached: usage
                .prompt_tokens_details
                .and_then(|details| details.cached_tokens)
                .unwrap_or(0),
            output: usage.completion_tokens,
        }),
    }
}

/// The words of an error in OpenAI's shape, or in any other.
pub fn message(error: &Value) -> String {
    let inner = error.get("error").unwrap_or(error);
    match inner.get("message").unwrap_or(inner) {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Cuts a stream of bytes into the `data` of its frames. Lines may end in LF or CRLF, and bytes may
/// be cut anywhere.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

/// No server sends a longer line.
const MOST_LINE: usize = 1 << 20;

impl Lines {
    /// The frames that these bytes complete; `Err` for a line that never ends.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, &'static str> {
        self.rest.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(end) = self.rest.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            // Each frame is one line here: no server of this API breaks its JSON.
            if let Some(data) = line.trim_end().strip_prefix("data:") {
                frames.push(data.trim_start().to_owned());
            }
        }
        match self.rest.len() > MOST_LINE {
            true => Err("a frame is longer than 1 MiB"),
            false => Ok(frames),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_every_server_are_read() {
        let piece = |text: &str, finish| Frame::Piece {
            text: text.into(),
            logprobs: Vec::new(),
            finish,
            usage: None,
        };
        for (data, expected) in [
            (
                r#"{"choices":[{"delta":{"role":"assistant"},"index":0}]}"#,
                piece("", None),
            ),
            (
                r#"{"choices":[{"delta":{"content":"Hi"},"finish_reason":null}]}"#,
                piece("Hi", None),
            ),
            (
                r#"{"choices":[{"text":" there","finish_reason":"length"}]}"#,
                piece(" there", Some(Finish::Length)),
            ),
            ("[DONE]", Frame::Done),
            (
                r#"{"error":{"message":"out of memory","type":"server_error"}}"#,
                Frame::Error("out of memory".into()),
            ),
        ] {
            assert_eq!(frame(data), expected);
        }
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,
            "prompt_tokens_details":{"cached_tokens":8}}}"#;
        assert!(matches!(
            frame(usage),
            Frame::Piece {
                usage: Some(Usage {
                    prompt: 9,
                    cached: 8,
                    output: 4
                }),
                ..
            }
        ));
        assert!(matches!(frame("<html>"), Frame::Error(_)));
        let told = r#"{"choices":[{"delta":{"content":"é"},"logprobs":{"content":[
            {"token":"é","logprob":-0.5,"bytes":null,"top_logprobs":[{"token":"\\xc3","logprob":-1,"bytes":[195]}]}
        ]}}]}"#;
        let Frame::Piece { logprobs, .. } = frame(told) else {
            panic!("no piece")
        };
        assert_eq!(logprobs[0].drawn.bytes, "é".as_bytes());
        assert_eq!(logprobs[0].top[0].bytes, [195]);
    }

    #[test]
    fn bytes_may_be_cut_anywhere() {
        let stream = ": comment\r\ndata: {\"ü\"}\r\n\r\nevent: x\ndata:[DONE]\n\n".as_bytes();
        for cut in 0..stream.len() {
            let mut lines = Lines::default();
            let mut frames = lines.push(&stream[..cut]).unwrap();
            frames.extend(lines.push(&stream[cut..]).unwrap());
            assert_eq!(frames, ["{\"ü\"}", "[DONE]"], "cut at {cut}");
        }
        let mut endless = Lines::default();
        assert!(endless.push(&vec![b'x'; MOST_LINE + 1]).is_err());
    }
}
