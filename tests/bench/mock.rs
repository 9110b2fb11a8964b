//! A chat server that follows a script: so many words, at such a pace, with such an end.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::sync::{RwLock, mpsc};

/// A prompt of more words makes all streams stand still while it is read.
const LONG: usize = 500;

#[derive(Clone)]
pub struct Script {
    /// Between two words of an answer.
    pub pace: Duration,
    /// For which everything stands still when a long prompt arrives.
    pub long_prompt: Duration,
    pub end: End,
    pub usage: bool,
}

#[derive(Clone, Copy)]
pub enum End {
    Done,
    /// The connection closes after the last word.
    Cut,
    /// An error frame takes the place of the last word.
    Error,
    /// 429 before the head.
    Refuse,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            pace: Duration::from_millis(10),
            long_prompt: Duration::ZERO,
            end: End::Done,
            usage: true,
        }
    }
}

pub struct Mock {
    pub url: String,
    pub seen: Arc<Seen>,
}

/// What the server was asked.
#[derive(Default)]
pub struct Seen {
    pub bodies: Mutex<Vec<Value>>,
    running: AtomicUsize,
    pub most_running: AtomicUsize,
    stands_still: RwLock<()>,
}

impl Mock {
    pub async fn start(script: Script) -> Self {
        let seen = Arc::new(Seen::default());
        let models = || async { axum::Json(json!({"data": [{"id": "mock"}, {"id": "other"}]})) };
        let app = Router::new()
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(complete))
            .with_state((script, seen.clone()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, seen }
    }
}

async fn complete(
    State((script, seen)): State<(Script, Arc<Seen>)>,
    axum::Json(body): axum::Json<Value>,
) -> Response {
    seen.bodies.lock().unwrap().push(body.clone());
    if matches!(script.end, End::Refuse) {
        let error = json!({"error": {"message": "the queue is full", "type": "overloaded"}});
        return (StatusCode::TOO_MANY_REQUESTS, axum::Json(error)).into_response();
    }
    let (frames, sent) = mpsc::unbounded_channel();
    tokio::spawn(speak(script, seen, body, frames));
    let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(sent);
    let body = Body::from_stream(tokio_stream::StreamExt::map(frames, Ok::<_, Infallible>));
    ([("content-type", "text/event-stream")], body).into_response()
}

/// Sends words until `max_tokens`; ends early when nobody listens.
async fn speak(script: Script, seen: Arc<Seen>, body: Value, to: mpsc::UnboundedSender<Bytes>) {
    let running = seen.running.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most_running.fetch_max(running, Ordering::SeqCst);
    let words = body["messages"].as_array().unwrap().iter();
    let words: usize = words
        .map(|m| m["content"].as_str().unwrap().split(' ').count())
        .sum();
    let tokens = body["max_tokens"].as_u64().unwrap();
    let frame = |value: Value| Bytes::from(format!(": beat\r\ndata: {value}\r\n\r\n"));
    let _ = to.send(frame(
        json!({"choices": [{"delta": {"role": "assistant", "content": null}}]}),
    ));
    if words > LONG {
        let _still = seen.stands_still.write().await;
        tokio::time::sleep(script.long_prompt).await;
    }
    for at in 1..=tokens {
        let moving = seen.stands_still.read().await;
        drop(moving);
        tokio::time::sleep(script.pace).await;
        let word = match script.end {
            End::Error if at == tokens => json!({"error": {"message": "out of memory"}}),
            _ => json!({"choices": [{"delta": {"content": format!(" wörd{at}")}}]}),
        };
        if to.send(frame(word)).is_err() {
            break;
        }
    }
    // Before the end is told: who reads it may ask again at once.
    seen.running.fetch_sub(1, Ordering::SeqCst);
    if matches!(script.end, End::Done) {
        let _ = to.send(frame(
            json!({"choices": [{"delta": {}, "finish_reason": "length"}]}),
        ));
        if script.usage {
            let usage = json!({"prompt_tokens": words, "completion_tokens": tokens});
            let _ = to.send(frame(json!({"choices": [], "usage": usage})));
        }
        let _ = to.send(Bytes::from("data: [DONE]\n\n"));
    }
}
