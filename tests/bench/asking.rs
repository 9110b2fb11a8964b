//! One question, and the ways in which an answer can fail.

use std::time::Duration;

use stent::bench::answer::{Answer, Usage};
use stent::bench::client::{AskError, Client, Question};

use super::mock::{End, Mock, Script};

async fn ask(script: Script, tokens: u32) -> Result<Answer, AskError> {
    let mock = Mock::start(script).await;
    let client = Client::connect(&mock.url, None).await?;
    client.ask(&Question::new("How are you?", tokens)).await
}

#[tokio::test]
async fn an_answer_is_read_to_its_end() {
    let answer = ask(Script::default(), 3).await.unwrap();
    assert_eq!(answer.text, " wörd1 wörd2 wörd3");
    assert_eq!(answer.pieces.len(), 3);
    assert_eq!(answer.finish.as_deref(), Some("length"));
    let usage = Usage {
        prompt_tokens: 3,
        completion_tokens: 3,
    };
    assert_eq!(answer.usage, Some(usage));
    assert!(answer.sent < answer.pieces[0] && answer.last_piece() <= answer.ended);
}

#[tokio::test]
async fn the_first_text_counts_and_not_the_role() {
    let script = Script {
        pace: Duration::from_millis(60),
        ..Script::default()
    };
    let answer = ask(script, 1).await.unwrap();
    assert!(
        answer.first() >= Duration::from_millis(60),
        "{:?}",
        answer.first()
    );
}

#[tokio::test]
async fn without_usage_pieces_are_counted() {
    let answer = ask(
        Script {
            usage: false,
            ..Script::default()
        },
        4,
    )
    .await
    .unwrap();
    assert_eq!((answer.usage, answer.tokens()), (None, 4));
}

#[tokio::test]
async fn each_failure_says_what_happened() {
    let cases = [
        (End::Cut, "the stream ended without [DONE] after 2 pieces"),
        (End::Error, "the stream carried an error: out of memory"),
        (
            End::Refuse,
            "the server answered 429 Too Many Requests: the queue is full",
        ),
    ];
    for (end, expected) in cases {
        let error = ask(
            Script {
                end,
                ..Script::default()
            },
            2,
        )
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    assert_eq!(
        ask(Script::default(), 0).await.unwrap_err().to_string(),
        "the answer has no text"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_by_its_cause() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::connect(&url, None).await.unwrap_err().to_string();
    assert!(error.contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn the_request_is_a_greedy_seeded_stream_of_the_first_model() {
    let mock = Mock::start(Script::default()).await;
    let client = Client::connect(&mock.url, Some("key")).await.unwrap();
    let mut question = Question::new("Why?", 1);
    question.session = Some("s-1".into());
    client.ask(&question).await.unwrap();
    let bodies = mock.seen.bodies.lock().unwrap();
    let expected = serde_json::json!({
        "model": "mock", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 1,
        "temperature": 0, "seed": 7, "stream": true, "stream_options": {"include_usage": true},
        "session_id": "s-1",
    });
    assert_eq!(bodies[0], expected);
}
