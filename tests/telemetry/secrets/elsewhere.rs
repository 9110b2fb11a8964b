//! The same where people's words leave the process: to Redis, and to an upstream that repeats them in what
//! it gets wrong.

use std::io::Write;
use std::net::TcpListener;

use super::*;
use crate::operations::upstreams::odd::head_and_body;
use crate::support::redis::RedisServer;

/// Fails where anything that an operator can read holds any of them.
async fn assert_kept_clean(server: &Server, spans: &[Received], canaries: &[&str]) {
    let kept = kept(server, spans).await;
    for canary in canaries {
        let places = holding(&kept, canary);
        let lines = kept
            .iter()
            .flat_map(|(_, text)| text.lines())
            .find(|line| line.contains(canary));
        assert_eq!(places, Vec::<&str>::new(), "{canary}: {lines:?}");
    }
}

/// The request's trace, its status and its whole answer.
async fn ask(server: &Server, route: &str, body: Value) -> (String, u16, String) {
    let response = server.post(route, body).await;
    let trace = response.headers()["traceresponse"].to_str().unwrap();
    let trace = trace.split('-').nth(1).unwrap().to_owned();
    let status = response.status().as_u16();
    // A stream may break off.
    let text = response.text().await.unwrap_or_default();
    (trace, status, text)
}

fn question(session: &str) -> Value {
    json!({ "message": format!("Tell me of {ASKED}"), "session_id": session })
}

#[tokio::test]
async fn sessions_answers_and_runs_on_redis() {
    let receiver = Arc::new(Receiver::start(Protocol::Grpc));
    let mut redis = RedisServer::start();
    let (sessions, cache) = (
        format!("sessions.store={}", redis.url()),
        format!("cache.store={}", redis.url()),
    );
    let sets = [
        sessions.as_str(),
        cache.as_str(),
        "policies.cache.scope=tenant",
        "policies.cache.config.scope=tenant",
        // A busy machine is no trouble of Redis.
        "sessions.timeout=1s",
        "cache.timeout=1s",
        "log.filter=trace",
    ];
    let a = start_with(&[], &sets, &receiver).await;
    let b = start_with(&[], &sets, &receiver).await;
    let (mut traces, _) = ask_all(&a).await;
    let mut on_b = async |session: &str, status: u16| {
        let (trace, found, text) = ask(&b, "/chat", question(session)).await;
        assert_eq!(found, status, "{text}");
        traces.push(trace);
    };
    // The conversation hops; a question that was answered is a hit; one that is being answered is
    // read along.
    on_b(SESSION, 200).await;
    on_b("another", 200).await;
    let hits = r#"stent_cache_total{key="exact",result="hit"}"#;
    assert!(b.metrics().await.contains(hits), "{}", b.metrics().await);
    let shared = |session: &str| {
        let message = format!("Tell me all of {ASKED}");
        json!({ "message": message, "session_id": format!("{SESSION}-{session}") })
    };
    let both = tokio::join!(
        ask(&a, "/chat/stream", shared("a")),
        ask(&b, "/chat/stream", shared("b"))
    );
    for (_, status, text) in [both.0, both.1] {
        assert!(status == 200 && text.contains("[DONE]"), "{text}");
    }
    let names = redis.ask(&["keys", "*"]);
    assert!(names.contains(SESSION), "{names}");
    // What cannot be read, and a server that says no, is silent, and is gone.
    let name = format!("stent:session:{{default/{SESSION}}}");
    redis.ask(&["hset", &name, "0", ASKED]);
    on_b(SESSION, 500).await;
    redis.ask(&["set", &name, SAID]);
    on_b(SESSION, 503).await;
    redis.ask(&["del", &name]);
    redis.pause();
    on_b(SESSION, 503).await;
    redis.kill();
    for _ in 0..4 {
        on_b(SESSION, 503).await;
    }
    let seen = spans(Arc::clone(&receiver), traces).await;
    assert!(seen.len() > 50, "{}", seen.len());
    for server in [&a, &b] {
        assert_kept_clean(server, &seen, &ALL).await;
    }
}

/// How an upstream repeats what it was asked.
const REPEATS: [fn(&str) -> String; 10] = [
    |said| {
        refusal(
            "400 Bad Request",
            &json!({ "error": { "message": said } }).to_string(),
        )
    },
    |said| {
        refusal(
            "500 Internal Server Error",
            &json!({ "error": said }).to_string(),
        )
    },
    |said| refusal("429 Too Many Requests", said),
    |said| refusal(&format!("500 {ASKED}\r\nx-said: {ASKED}"), said),
    |said| {
        refusal(
            &format!("307 Temporary Redirect\r\nlocation: /v1/{ASKED}"),
            said,
        )
    },
    |said| frames(&[&json!({ "error": { "message": said } }).to_string()]),
    // A frame that is no completion: what is wrong with it quotes it.
    |said| frames(&[&json!(said).to_string()]),
    |said| frames(&[piece(SAID).as_str(), &json!({ "error": said }).to_string()]),
    |said| frames(&[piece(SAID).as_str(), said]),
    // No HTTP at all.
    |said| said.to_owned(),
];

fn refusal(status: &str, body: &str) -> String {
    let bytes = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n{body}")
}

fn frames(frames: &[&str]) -> String {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let frames = frames.iter().map(|frame| format!("data: {frame}\n\n"));
    format!("{head}{}", frames.collect::<String>())
}

/// A token and how likely it was.
fn piece(text: &str) -> String {
    let likely = json!({ "token": text, "logprob": -0.5, "bytes": text.as_bytes() });
    let mut told = likely.clone();
    told["top_logprobs"] = json!([likely]);
    let choice = json!({ "delta": { "content": text }, "logprobs": { "content": [told] } });
    json!({ "choices": [choice] }).to_string()
}

fn whole() -> String {
    let end = json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }] }).to_string();
    frames(&[piece(SAID).as_str(), &end, "[DONE]"])
}

/// Answers each question with the next of these.
fn upstream(answers: Vec<fn(&str) -> String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let request = head_and_body(&mut stream);
            let answer = match request.starts_with("GET") {
                true => refusal("200 OK", r#"{"data":[{"id":"odd"}]}"#),
                false => {
                    let asked = request.split_once("\r\n\r\n").unwrap().1;
                    answers.next().map_or_else(whole, |answer| answer(asked))
                }
            };
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[tokio::test]
async fn an_upstream_that_repeats_what_it_was_asked() {
    let receiver = Arc::new(Receiver::start(Protocol::Grpc));
    let upstreams = format!("engine.upstreams=[\"{}\"]", upstream(REPEATS.to_vec()));
    let sets = [
        "engine.kind=openai",
        &upstreams,
        // Each is asked, whatever came before.
        "engine.upstream.failures=1000",
        "log.filter=trace",
        "cache.store=off",
    ];
    let server = start_with(&[], &sets, &receiver).await;
    let mut traces = Vec::new();
    let mut repeated = 0;
    for n in 0..REPEATS.len() {
        let route = ["/chat", "/chat/stream"][n % 2];
        let (trace, status, text) = ask(&server, route, question(SESSION)).await;
        assert!(text.contains("upstream_error"), "{n}: {status} {text}");
        repeated += usize::from(text.contains(ASKED));
        traces.push(trace);
    }
    // Who asked may read what is wrong with it.
    assert!(repeated >= 5, "{repeated}");
    // How likely each token was, whole and as a stream.
    for stream in [false, true] {
        let body = json!({
            "messages": [{ "role": "user", "content": format!("Tell me of {ASKED}") }],
            "session_id": SESSION, "logprobs": true, "top_logprobs": 1, "stream": stream,
        });
        let (trace, status, text) = ask(&server, "/v1/chat/completions", body).await;
        assert!(status == 200 && text.contains("\"top_logprobs\""), "{text}");
        assert!(text.contains(SAID), "{text}");
        traces.push(trace);
    }
    let seen = spans(Arc::clone(&receiver), traces).await;
    assert_kept_clean(&server, &seen, &ALL).await;
}

/// With the model itself, which must say this: no log of tokens one by one goes unseen, whole
/// letters or bytes of them.
#[tokio::test]
async fn the_probabilities_of_a_model_that_runs_here() {
    let receiver = Arc::new(Receiver::start(Protocol::Grpc));
    let sets = [
        "engine.kind=llama",
        "engine.threads=1",
        "engine.max_tokens=64",
        "log.filter=trace",
        "cache.store=off",
    ];
    let server = start_with(&[], &sets, &receiver).await;
    let body = json!({
        "messages": [{ "role": "user", "content": format!("What is diabetes, {ASKED}?") }],
        "session_id": SESSION, "temperature": 0, "logprobs": true, "top_logprobs": 5,
        "response_format": { "type": "json_object",
            "schema": { "type": "string", "enum": [format!("ßüß {SAID}")] } },
    });
    let (trace, status, text) = ask(&server, "/v1/chat/completions", body).await;
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let choice = &answer["choices"][0];
    assert!(choice["logprobs"]["content"].is_array(), "{answer}");
    assert_eq!(choice["message"]["content"], format!("\"ßüß {SAID}\""));
    let seen = spans(Arc::clone(&receiver), vec![trace]).await;
    assert_kept_clean(&server, &seen, &[ASKED, SESSION, SAID, "ß", "\u{fffd}"]).await;
}
