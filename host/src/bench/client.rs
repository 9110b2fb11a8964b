//! A client of `/v1/chat/completions` that notes when each piece of an answer arrives.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::sse::{Decoder, SseError};
use crate::types::Role;

/// A server that sends nothing for this long has failed.
const SILENCE: Duration = Duration::from_secs(600);

/// Fixed for all questions, so that equal questions are equal in every respect.
const SEED: u32 = 7;

/// One server and the model that it serves.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    model: String,
    key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Turn {
    pub role: Role,
    pub content: String,
}

impl Turn {
    pub fn user(content: impl Into<String>) -> Self {
        Self {
            role: Role::User,
            content: content.into(),
        }
    }

    pub fn assistant(content: impl Into<String>) -> Self {
        Self {
            role: Role::Assistant,
            content: content.into(),
        }
    }
}

/// One request; always streamed, greedy and seeded.
#[derive(Clone, Debug)]
pub struct Question {
    pub messages: Vec<Turn>,
    pub max_tokens: u32,
    /// Sent as `session_id`, which servers that do not know it ignore.
    pub session: Option<String>,
}

impl Question {
    /// A single question without history.
    pub fn new(text: impl Into<String>, max_tokens: u32) -> Self {
        Self {
            messages: vec![Turn::user(text)],
            max_tokens,
            session: None,
        }
    }
}

/// An answer that came to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    pub sent: Instant,
    /// When each piece of text came; never empty.
    pub pieces: Vec<Instant>,
    /// `[DONE]` was read.
    pub ended: Instant,
    pub text: String,
    pub finish: Option<String>,
    /// What the server counted, if it did.
    pub usage: Option<Usage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
}

impl Answer {
    /// From sending the request to the first text.
    pub fn first(&self) -> Duration {
        self.pieces[0] - self.sent
    }

    pub fn last_piece(&self) -> Instant {
        self.pieces[self.pieces.len() - 1]
    }

    /// Generated tokens: the server's count, or one for each piece where it gives none.
    pub fn tokens(&self) -> u32 {
        let pieces = u32::try_from(self.pieces.len()).unwrap_or(u32::MAX);
        self.usage.map_or(pieces, |usage| usage.completion_tokens)
    }

    /// Tokens for each piece: 1 where every token is sent alone.
    pub fn tokens_per_piece(&self) -> f64 {
        f64::from(self.tokens()) / self.pieces.len() as f64
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("the request failed: {}", innermost(.0))]
    Transport(#[from] reqwest::Error),
    #[error("the server answered {status}: {message}")]
    Status {
        status: reqwest::StatusCode,
        message: String,
    },
    #[error("the stream carried an error: {0}")]
    InStream(String),
    #[error("the stream ended without [DONE] after {pieces} pieces")]
    Truncated { pieces: usize },
    #[error("the answer has no text")]
    Empty,
    #[error("the stream is no event stream: {0}")]
    Sse(#[from] SseError),
    #[error("found {found:?} where a chat.completion.chunk was expected: {reason}")]
    Chunk { found: String, reason: String },
    #[error("GET /v1/models lists no model")]
    NoModel,
}

/// reqwest's own text ends at "error sending request"; the cause says what happened.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[derive(Deserialize)]
struct Models {
    data: Vec<ModelEntry>,
}

#[derive(Deserialize)]
struct ModelEntry {
    id: String,
}

/// A frame of the stream: a chunk, or an error after the head.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
}

impl Client {
    /// Connects and asks which model is served.
    pub async fn connect(base: &str, key: Option<&str>) -> Result<Self, AskError> {
        let http = reqwest::Client::builder()
            .tcp_nodelay(true)
            .read_timeout(SILENCE)
            .build()?;
        let mut client = Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            model: String::new(),
            key: key.map(str::to_owned),
        };
        let response = client
            .send(client.http.get(client.url("/v1/models")))
            .await?;
        let models: Models = response.json().await?;
        client.model = models.data.into_iter().next().ok_or(AskError::NoModel)?.id;
        Ok(client)
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn model(&self) -> &str {
        &self.model
    }

    pub async fn ask(&self, question: &Question) -> Result<Answer, AskError> {
        self.ask_with(question, |_| {}).await
    }

    /// Asks, and tells of each piece as it arrives. Dropping the future closes the connection.
    pub async fn ask_with(
        &self,
        question: &Question,
        mut on_piece: impl FnMut(Instant),
    ) -> Result<Answer, AskError> {
        let mut body = json!({
            "model": self.model,
            "messages": question.messages,
            "max_tokens": question.max_tokens,
            "temperature": 0,
            "seed": SEED,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        if let Some(session) = &question.session {
            body["session_id"] = json!(session);
        }
        let request = self.http.post(self.url("/v1/chat/completions")).json(&body);
        let sent = Instant::now();
        let mut bytes = self.send(request).await?.bytes_stream();
        let mut answer = Reading::new(sent);
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        while let Some(arrived) = bytes.next().await {
            decoder.push(&arrived?, &mut frames)?;
            let now = Instant::now();
            for frame in frames.drain(..) {
                match answer.take(&frame, now)? {
                    Step::Text => on_piece(now),
                    Step::Other => {}
                    Step::Done => return answer.finish(now),
                }
            }
        }
        Err(AskError::Truncated {
            pieces: answer.pieces.len(),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, AskError> {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let response = request.send().await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await?;
        let message = match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(value) => message_of(&value["error"]),
            Err(_) => text.chars().take(200).collect(),
        };
        Err(AskError::Status { status, message })
    }
}

/// The text of OpenAI's error object, or the object itself where it has none.
fn message_of(error: &serde_json::Value) -> String {
    match error["message"].as_str() {
        Some(message) => message.to_owned(),
        None => error.to_string(),
    }
}

enum Step {
    Text,
    Other,
    Done,
}

/// An answer on its way.
struct Reading {
    sent: Instant,
    pieces: Vec<Instant>,
    text: String,
    finish: Option<String>,
    usage: Option<Usage>,
}

impl Reading {
    fn new(sent: Instant) -> Self {
        Self {
            sent,
            pieces: Vec::new(),
            text: String::new(),
            finish: None,
            usage: None,
        }
    }

    fn take(&mut self, frame: &str, now: Instant) -> Result<Step, AskError> {
        if frame == "[DONE]" {
            return Ok(Step::Done);
        }
        let chunk: Chunk = serde_json::from_str(frame).map_err(|error| AskError::Chunk {
            found: frame.chars().take(80).collect(),
            reason: error.to_string(),
        })?;
        if let Some(error) = chunk.error {
            return Err(AskError::InStream(message_of(&error)));
        }
        self.usage = chunk.usage.or(self.usage);
        let Some(choice) = chunk.choices.into_iter().next() else {
            return Ok(Step::Other);
        };
        self.finish = choice.finish_reason.or(self.finish.take());
        match choice.delta.content {
            Some(text) if !text.is_empty() => {
                self.text.push_str(&text);
                self.pieces.push(now);
                Ok(Step::Text)
            }
            _ => Ok(Step::Other),
        }
    }

    fn finish(self, ended: Instant) -> Result<Answer, AskError> {
        if self.pieces.is_empty() {
            return Err(AskError::Empty);
        }
        Ok(Answer {
            sent: self.sent,
            pieces: self.pieces,
            ended,
            text: self.text,
            finish: self.finish,
            usage: self.usage,
        })
    }
}
