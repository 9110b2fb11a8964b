//! A client of `/v1/chat/completions` that notes when each piece of an answer arrives.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::answer::{Answer, Reading, Step, message_of};
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

impl Client {
    /// Connects and asks which model is served.
    pub async fn connect(base: &str, key: Option<&str>) -> Result<Self, AskError> {
        crate::tls::install();
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
