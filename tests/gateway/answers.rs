//! What comes back for a question, with the demo model.

use serde_json::{Value, json};

use crate::support::server::{Frames, Server, told};

/// Four questions at the same time, each answered with its own topic and no other's. Whether they
/// get the very tokens that they get alone depends on near ties between logits, which differ from
/// one processor to the next: the engine's tests ask that of prompts without ties.
#[tokio::test]
async fn four_streams_at_once_are_each_right() {
    let server = Server::start(&["engine.temperature=0"]).await;
    let questions = ["diabetes", "asthma", "a fever", "vitamin C"];
    let together = questions.map(|topic| {
        let server = &server;
        async move {
            let body = json!({ "message": format!("What is {topic}?"), "max_tokens": 60,
                "session_id": format!("s-{}", topic.replace(' ', "-")) });
            let frames = Frames::of(server.post("/chat/stream", body).await)
                .rest()
                .await;
            Value::from(told(&frames).0)
        }
    });
    let together = futures::future::join_all(together).await;
    let named = |topic: &str| topic.trim_start_matches("a ").to_lowercase();
    for (topic, text) in questions.iter().zip(&together) {
        let text = text.as_str().unwrap().to_lowercase();
        assert!(text.contains(&named(topic)), "{topic}: {text}");
        let mut others = questions.iter().filter(|other| *other != topic);
        let strange = others.find(|other| text.contains(&named(other)));
        assert_eq!(strange, None, "{topic}: {text}");
    }
}

#[tokio::test]
async fn a_stream_has_the_frames_that_the_sdk_expects() {
    let server = Server::start(&[]).await;
    let body = json!({ "message": "What is diabetes?", "session_id": "test123" });
    let asked = server.client.post(format!("{}/chat/stream", server.base));
    // Whatever the client would take: a compressor keeps words back.
    let asked = asked.header("accept-encoding", "gzip, br, zstd");
    let response = asked.json(&body).send().await.unwrap();
    assert!(!response.headers().contains_key("content-encoding"));
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/event-stream");
    assert_eq!(header("x-vercel-ai-ui-message-stream"), "v1");
    assert_eq!(header("cache-control"), "no-cache, no-transform");
    assert_eq!(header("x-accel-buffering"), "no");
    let trace = header("traceresponse");
    let frames = Frames::of(response).rest().await;
    let kinds: Vec<_> = frames
        .iter()
        .map(|frame| frame["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds[..2], ["start", "text-start"], "{kinds:?}");
    assert_eq!(
        kinds[kinds.len() - 3..],
        ["text-end", "data-stent", "finish"],
        "{kinds:?}"
    );
    assert_eq!(frames[0]["messageMetadata"]["session_id"], "test123");
    let (text, summary) = told(&frames);
    assert!(text.contains("iabetes"), "{text}");
    assert!(!text.starts_with(' '));
    assert!(trace.contains(summary["trace_id"].as_str().unwrap()));
    assert!(summary["tokens"].as_u64().unwrap() > 3);
    assert!(summary["ttft_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn a_session_is_remembered_and_reused_and_forgotten() {
    let server = Server::start(&[]).await;
    server.chat("What is diabetes?", "s1").await;
    let second = server.chat("What are its symptoms?", "s1").await;
    assert!(
        second["text"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .contains("diabetes"),
        "{second}"
    );
    let cached = second["stent"]["cached_tokens"].as_u64().unwrap();
    assert!(cached > 20, "the session's KV is reused: {second}");
    let history = format!("{}/sessions/s1", server.base);
    let held = server.session("s1").await;
    let roles: Vec<_> = held["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["role"])
        .collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!(
        server
            .client
            .delete(&history)
            .send()
            .await
            .unwrap()
            .status(),
        204
    );
    assert_eq!(
        server.client.get(&history).send().await.unwrap().status(),
        404
    );
}

#[tokio::test]
async fn without_a_session_id_the_first_frame_tells_one() {
    let server = Server::start(&["engine.kind=scripted"]).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let response = server
            .post("/chat/stream", json!({ "message": "Hello" }))
            .await;
        let frames = Frames::of(response).rest().await;
        ids.push(
            frames[0]["messageMetadata"]["session_id"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    assert!(ids.iter().all(|id| id.len() == 32));
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn an_answer_in_the_cache_comes_as_the_same_stream() {
    let sets = [
        "policies.cache.scope=tenant",
        "policies.cache.config.scope=tenant",
    ];
    let server = Server::start(&sets).await;
    let ask = async |session: &str, seed: Value| {
        let body = json!({ "message": "What is asthma?", "session_id": session, "seed": seed });
        Frames::of(server.post("/chat/stream", body).await)
            .rest()
            .await
    };
    let first = ask("one", json!("derived")).await;
    let again = ask("two", json!("derived")).await;
    let ((text, fresh), (same, hit)) = (told(&first), told(&again));
    assert_eq!(
        (&fresh["cached"], &hit["cached"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(text, same);
    let kinds = |frames: &[Value]| {
        let mut kinds: Vec<_> = frames.iter().map(|f| f["type"].to_string()).collect();
        kinds.dedup();
        kinds
    };
    assert_eq!(kinds(&first), kinds(&again));
    let fresh = told(&ask("three", json!("random")).await).1;
    assert_eq!(
        fresh["cached"], false,
        "a random seed asks for another answer"
    );
}

#[tokio::test]
async fn openai_clients_are_served() {
    let server = Server::start(&[]).await;
    let models: Value = server
        .client
        .get(format!("{}/v1/models", server.base))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let model = models["data"][0]["id"].clone();
    let body = |stream: bool| {
        json!({ "model": model, "stream": stream, "temperature": 0, "max_tokens": 40,
            "stream_options": { "include_usage": true }, "user": "ignored",
            "messages": [{ "role": "system", "content": "Answer briefly." },
                         { "role": "user", "content": [{ "type": "text", "text": "What is diabetes?" }] }] })
    };
    let whole: Value = server
        .post("/v1/chat/completions", body(false))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(whole["object"], "chat.completion");
    let usage = &whole["usage"];
    let count = |name: &str| usage[name].as_u64().unwrap();
    assert_eq!(
        count("prompt_tokens") + count("completion_tokens"),
        count("total_tokens")
    );
    let frames = Frames::of(server.post("/v1/chat/completions", body(true)).await)
        .rest()
        .await;
    assert_eq!(frames[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = frames
        .iter()
        .filter_map(|frame| frame["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(
        text,
        whole["choices"][0]["message"]["content"].as_str().unwrap()
    );
    let [.., finish, last] = frames.as_slice() else {
        panic!("{frames:?}")
    };
    assert!(finish["choices"][0]["finish_reason"].is_string());
    assert_eq!(
        last["usage"]["completion_tokens"],
        usage["completion_tokens"]
    );
}

/// With a `session_id` the server's memory counts, whether the client sends its own or not.
#[tokio::test]
async fn a_named_session_of_v1_is_remembered_and_its_kv_is_used_again() {
    let server = Server::start(&[]).await;
    let ask = async |session: Option<&str>, messages: Value| -> [u64; 2] {
        let mut body = json!({ "temperature": 0, "max_tokens": 30, "messages": messages });
        if let Some(session) = session {
            body["session_id"] = json!(session);
        }
        let answer = server.post("/v1/chat/completions", body).await;
        let answer: Value = answer.json().await.unwrap();
        let usage = &answer["usage"];
        let cached = &usage["prompt_tokens_details"]["cached_tokens"];
        [
            usage["prompt_tokens"].as_u64().unwrap(),
            cached.as_u64().unwrap(),
        ]
    };
    let user = |text: &str| json!({ "role": "user", "content": text });
    let first = "What is diabetes?";
    let second = "What are its symptoms?";
    let [alone, _] = ask(None, json!([user(second)])).await;
    for session in ["short", "long"] {
        ask(Some(session), json!([user(first)])).await;
    }
    let [short, cached] = ask(Some("short"), json!([user(second)])).await;
    assert!(
        short > alone + 10,
        "the history is part of the prompt: {short} and {alone}"
    );
    assert!(cached > alone, "{cached} of {short} tokens were there");
    // What the client remembers of the same conversation is not added once more.
    let told = json!({ "role": "assistant", "content": "something else altogether" });
    let [long, _] = ask(Some("long"), json!([user(first), told, user(second)])).await;
    assert_eq!(long, short);
    let [stateless, _] = ask(None, json!([user(first), told, user(second)])).await;
    assert_ne!(
        stateless, long,
        "without a session the client's history counts"
    );
    let odd = json!({ "messages": [user(first)], "session_id": "a b" });
    let refused = server.post("/v1/chat/completions", odd).await;
    assert_eq!(refused.status(), 400);
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["error"]["param"], "session_id");
}
