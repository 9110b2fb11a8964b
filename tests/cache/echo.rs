//! An upstream whose every answer is its own: it repeats what was asked last, with a number that it
//! never says again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

pub struct Echo {
    pub url: String,
    pub asked: Arc<AtomicUsize>,
}

impl Echo {
    /// Says a word every `pace`.
    pub async fn start(pace: Duration) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let models = || async { axum::Json(json!({ "data": [{ "id": "echo" }] })) };
        let app = Router::new()
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(complete))
            .with_state((pace, Arc::clone(&asked)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, asked }
    }

    /// The settings of a gateway in front of it.
    pub fn sets(&self) -> Vec<String> {
        vec![
            "engine.kind=openai".into(),
            format!("engine.upstreams=[{:?}]", self.url),
            "engine.upstream.model=echo".into(),
        ]
    }
}

/// The number in an answer's text.
pub fn number(text: &str) -> usize {
    let number = text
        .split("number ")
        .nth(1)
        .unwrap_or_else(|| panic!("{text}"));
    number.split(':').next().unwrap().parse().unwrap()
}

async fn complete(
    State((pace, asked)): State<(Duration, Arc<AtomicUsize>)>,
    body: Bytes,
) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let messages = body["messages"].as_array().unwrap();
    let last = messages.last().unwrap()["content"].as_str().unwrap();
    let number = asked.fetch_add(1, Ordering::Relaxed);
    let text = format!("This is number {number}: {last}");
    let words: Vec<_> = text.split_inclusive(' ').map(str::to_owned).collect();
    let frame = |delta: Value, finish: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        format!("data: {}\n\n", json!({ "choices": [choice] }))
    };
    let mut frames: Vec<_> = words
        .into_iter()
        .map(|word| frame(json!({ "content": word }), Value::Null))
        .collect();
    frames.push(frame(json!({}), json!("stop")));
    frames.push("data: [DONE]\n\n".into());
    let body = Body::from_stream(futures::stream::unfold(
        frames.into_iter(),
        move |mut left| async move {
            let frame = left.next()?;
            tokio::time::sleep(pace).await;
            Some((Ok::<_, std::convert::Infallible>(frame), left))
        },
    ));
    ([("content-type", "text/event-stream")], body).into_response()
}
