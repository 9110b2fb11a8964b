//! How likely each token of an answer was, with the demo model: OpenAI's `logprobs`.

use serde_json::{Value, json};

use crate::support::server::{Frames, Server, bundled};

const ROUTE: &str = "/v1/chat/completions";
const SETS: [&str; 2] = ["engine.threads=1", "engine.max_tokens=24"];

fn question() -> Value {
    json!({
        "messages": [{ "role": "user", "content": "What is diabetes?" }],
        "temperature": 0,
        "logprobs": true,
        "top_logprobs": 5,
    })
}

/// The only choice of the whole answer.
async fn choice(server: &Server, body: &Value) -> Value {
    let response = server.post(ROUTE, body.clone()).await;
    assert_eq!(response.status(), 200, "{}", server.log());
    let mut answer: Value = response.json().await.unwrap();
    answer["choices"][0].take()
}

fn bytes(likely: &Value) -> Vec<u8> {
    let all = likely["bytes"].as_array().unwrap().iter();
    all.map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap())
        .collect()
}

/// The bytes of all its tokens.
fn said(content: &[Value]) -> String {
    String::from_utf8(content.iter().flat_map(bytes).collect()).unwrap()
}

fn logprob(likely: &Value) -> f64 {
    likely["logprob"].as_f64().unwrap()
}

/// Each entry is whole, and its numbers are probabilities.
fn assert_likely(content: &[Value], most: usize) {
    for told in content {
        let top = told["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), most, "{told}");
        for likely in top.iter().chain([told]) {
            let text = String::from_utf8_lossy(&bytes(likely)).into_owned();
            assert_eq!(likely["token"], text, "{likely}");
            assert!(logprob(likely) <= 0.0, "{likely}");
        }
        assert!(top.is_sorted_by(|a, b| logprob(a) >= logprob(b)), "{told}");
        let sum: f64 = top.iter().map(|likely| logprob(likely).exp()).sum();
        assert!(sum <= 1.0 + 1e-4, "{told}");
    }
}

#[tokio::test]
async fn each_token_of_an_answer_is_told_with_its_bytes() {
    let server = Server::start(&SETS).await;
    let with = choice(&server, &question()).await;
    let content = with["logprobs"]["content"].as_array().unwrap();
    assert!(content.len() > 5, "{with}");
    assert_eq!(with["logprobs"]["refusal"], Value::Null);
    assert_eq!(said(content), with["message"]["content"].as_str().unwrap());
    assert_likely(content, 5);
    for told in content {
        // The likeliest is drawn at temperature 0.
        assert_eq!(told["top_logprobs"][0]["bytes"], told["bytes"], "{told}");
    }
    // Asking changes nothing of the answer, and an answer that nobody asked it of tells nothing.
    let mut body = question();
    body["logprobs"] = json!(false);
    body.as_object_mut().unwrap().remove("top_logprobs");
    let without = choice(&server, &body).await;
    assert_eq!(without["message"], with["message"]);
    assert_eq!(without["logprobs"], Value::Null);
    // The kept answer cannot tell any: it is not given to who asks.
    let again = choice(&server, &question()).await;
    assert_eq!(again["logprobs"], with["logprobs"]);
    // None of the others, when only the drawn ones are wanted.
    body["logprobs"] = json!(true);
    let drawn = choice(&server, &body).await;
    let drawn = drawn["logprobs"]["content"].as_array().unwrap();
    assert_eq!(drawn.len(), content.len());
    assert_likely(drawn, 0);
}

#[tokio::test]
async fn a_stream_tells_the_same_token_by_token() {
    let server = Server::start(&SETS).await;
    let whole = choice(&server, &question()).await;
    let mut body = question();
    body["stream"] = json!(true);
    let frames = Frames::of(server.post(ROUTE, body).await).rest().await;
    let (mut text, mut content) = (String::new(), Vec::new());
    for frame in &frames {
        let choice = &frame["choices"][0];
        text += choice["delta"]["content"].as_str().unwrap_or_default();
        let told = choice["logprobs"]["content"].as_array();
        content.extend(told.into_iter().flatten().cloned());
        // Nobody knows more of an answer than what was said of it.
        assert!(text.starts_with(&said(&content)), "{text:?} {content:?}");
    }
    assert_eq!(text, whole["message"]["content"].as_str().unwrap());
    assert_eq!(json!(content), whole["logprobs"]["content"]);
}

#[tokio::test]
async fn characters_of_several_tokens_are_exact_in_their_bytes() {
    let server = Server::start(&SETS).await;
    let mut body = question();
    body["response_format"] = json!({ "type": "json_object",
        "schema": { "type": "string", "enum": ["Grüße 漢字 🩺"] } });
    let told = choice(&server, &body).await;
    let content = told["logprobs"]["content"].as_array().unwrap();
    assert_eq!(told["message"]["content"], "\"Grüße 漢字 🩺\"");
    assert_eq!(said(content), "\"Grüße 漢字 🩺\"");
    let broken = |told: &&Value| told["token"].as_str().unwrap().contains('\u{fffd}');
    assert!(content.iter().any(|told| broken(&told)), "{content:?}");
}

#[tokio::test]
async fn what_ends_an_answer_is_not_told() {
    let server = Server::start(&SETS).await;
    let whole = choice(&server, &question()).await;
    let text = whole["message"]["content"].as_str().unwrap();
    let stop = text.split(' ').nth(3).unwrap();
    let mut body = question();
    body["stop"] = json!([stop]);
    let cut = choice(&server, &body).await;
    let (text, content) = (
        cut["message"]["content"].as_str().unwrap(),
        cut["logprobs"]["content"].as_array().unwrap(),
    );
    assert!(!content.is_empty() && text.starts_with(&said(content)));
    assert!(!said(content).contains(stop), "{cut}");
}

#[tokio::test]
async fn who_asks_wrongly_or_of_the_wrong_one_is_told() {
    let server = Server::start(&SETS).await;
    let refused = async |server: &Server, change: Value| {
        let mut body = question();
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        let response = server.post(ROUTE, body).await;
        assert_eq!(response.status(), 400);
        let error: Value = response.json().await.unwrap();
        let error = &error["error"];
        (
            error["param"].clone(),
            error["message"].as_str().unwrap().to_owned(),
        )
    };
    for (change, field, words) in [
        (
            json!({ "top_logprobs": 21 }),
            "top_logprobs",
            "found 21, expected 0 to 20",
        ),
        (
            json!({ "logprobs": false }),
            "top_logprobs",
            "found 5 without \"logprobs\": true",
        ),
        (
            json!({ "top_logprobs": -1 }),
            "top_logprobs",
            "found -1, expected a whole number, 0",
        ),
        (
            json!({ "logprobs": 5 }),
            "logprobs",
            "found 5, expected true or false",
        ),
    ] {
        let (param, message) = refused(&server, change).await;
        assert_eq!(param, field, "{message}");
        assert!(message.contains(words), "{message}");
    }
    // What a filter takes out would be told all the same.
    std::fs::write(server.policies().join("f.wasm"), bundled("filter-redact")).unwrap();
    server
        .until("the filter serves", async |s| {
            let policies = s.admin("/admin/policies").await;
            let mut all = policies.as_array().unwrap().iter();
            all.any(|p| p["hook"] == "filter" && p["state"] == "live")
        })
        .await;
    let (param, message) = refused(&server, json!({})).await;
    assert_eq!(param, "logprobs");
    assert!(message.contains("a filter policy may change"), "{message}");
    let scripted = Server::start(&["engine.kind=scripted"]).await;
    let (param, message) = refused(&scripted, json!({})).await;
    assert_eq!(param, "logprobs");
    assert!(
        message.contains("\"scripted\" draws no tokens"),
        "{message}"
    );
}

#[tokio::test]
async fn an_upstream_that_can_tell_them_is_passed_on() {
    let behind = Server::start(&SETS).await;
    let own = choice(&behind, &question()).await;
    let upstreams = format!("engine.upstreams=[\"{}/v1\"]", behind.base);
    let sets = ["engine.kind=openai", &upstreams, "engine.max_tokens=24"];
    let front = Server::start(&sets).await;
    let passed = choice(&front, &question()).await;
    assert_eq!(passed["message"], own["message"]);
    assert_eq!(passed["logprobs"], own["logprobs"]);
    let mut stream = question();
    stream["stream"] = json!(true);
    let frames = Frames::of(front.post(ROUTE, stream).await).rest().await;
    let told = frames
        .iter()
        .filter_map(|f| f["choices"][0]["logprobs"]["content"].as_array());
    let told: Vec<_> = told.flatten().cloned().collect();
    assert_eq!(json!(told), own["logprobs"]["content"]);
    // Where the prompt is sent as text, the answer has another shape.
    let sets = [&sets[..], &["engine.upstream.api=completions"]].concat();
    let front = Server::start(&sets).await;
    let refused = front.post(ROUTE, question()).await;
    assert_eq!(refused.status(), 400);
    let error: Value = refused.json().await.unwrap();
    assert_eq!(error["error"]["param"], "logprobs", "{error}");
}
