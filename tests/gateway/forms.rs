//! How `/v1` lets a client shape an answer, with the demo model: its form, its tokens, its draw.

use serde_json::{Value, json};
use stent::engine::{self, Settings};
use stent::types::Special;

use crate::support::server::{Frames, Server, demo_model};

async fn server() -> Server {
    Server::start(&["engine.threads=1", "cache.store=off"]).await
}

/// The answer's text and why it ended, to a question with these parameters.
async fn answer(server: &Server, parameters: Value) -> (String, String) {
    let mut body = parameters;
    body["messages"] = json!([{ "role": "user", "content": "What is diabetes?" }]);
    let response = server.post("/v1/chat/completions", body.clone()).await;
    assert_eq!(response.status(), 200, "{body}");
    let answer: Value = response.json().await.unwrap();
    let choice = &answer["choices"][0];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (
        text(&choice["message"]["content"]),
        text(&choice["finish_reason"]),
    )
}

/// As clients send it: `zone` comes before `age`, which no sorting would keep.
const PATIENT: &str = r#"{"type": "object", "properties": {
    "zone": {"enum": ["head", "chest", "skin"]}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
    "note": {"type": "string", "maxLength": 40}, "urgent": {"type": "boolean"},
    "signs": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3}},
    "required": ["zone", "age", "note", "urgent", "signs"], "additionalProperties": false}"#;

fn assert_patient(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let fields = value.as_object().unwrap();
    assert_eq!(fields.len(), 5, "{text}");
    let zone = value["zone"].as_str().unwrap();
    assert!(["head", "chest", "skin"].contains(&zone), "{text}");
    assert!(
        value["age"].as_u64().is_some_and(|age| age <= 120),
        "{text}"
    );
    assert!(value["note"].as_str().unwrap().chars().count() <= 40);
    assert!(value["urgent"].is_boolean());
    assert!(value["signs"].as_array().unwrap().len() <= 3, "{text}");
    assert!(text.find("\"zone\"") < text.find("\"age\""), "{text}");
}

#[tokio::test]
async fn an_answer_of_a_schema_always_parses() {
    let server = server().await;
    let schema: Box<serde_json::value::RawValue> = serde_json::from_str(PATIENT).unwrap();
    for (seed, temperature) in [(1, 0.0), (2, 0.7), (3, 1.0), (4, 1.5), (5, 2.0), (6, 2.0)] {
        // Written by hand: a JSON value would sort the schema's names.
        let body = format!(
            r#"{{"messages": [{{"role": "user", "content": "Who is ill?"}}], "seed": {seed},
                "temperature": {temperature}, "top_k": 0, "top_p": 1, "min_p": 0, "max_tokens": 600,
                "stream": true, "response_format":
                {{"type": "json_schema", "json_schema": {{"name": "patient", "strict": true, "schema": {schema}}}}}}}"#
        );
        let response = server
            .client
            .post(format!("{}/v1/chat/completions", server.base))
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        let frames = Frames::of(response).rest().await;
        let text: String = frames
            .iter()
            .filter_map(|frame| frame["choices"][0]["delta"]["content"].as_str())
            .collect();
        let end = frames
            .iter()
            .rev()
            .find_map(|frame| frame["choices"][0]["finish_reason"].as_str());
        assert_eq!(end, Some("stop"), "{text}");
        assert_patient(&text);
    }
}

#[tokio::test]
async fn a_json_object_begins_as_one_and_ends_as_one() {
    let server = server().await;
    for seed in 1..5 {
        let form = json!({ "type": "json_object" });
        let asked =
            json!({ "response_format": form, "seed": seed, "temperature": 1, "max_tokens": 200 });
        let (text, end) = answer(&server, asked).await;
        assert!(text.starts_with('{'), "{text}");
        match end.as_str() {
            "stop" => assert!(serde_json::from_str::<Value>(&text).unwrap().is_object()),
            // OpenAI's rule too: who asks for so few tokens may get half an object.
            end => assert_eq!(end, "length", "{text}"),
        }
    }
    let form = json!({ "type": "json_object", "schema": { "type": "object",
        "properties": { "ok": { "const": true } }, "required": ["ok"] } });
    let (text, end) = answer(&server, json!({ "response_format": form })).await;
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        json!({ "ok": true })
    );
    assert_eq!(end, "stop");
}

#[tokio::test]
async fn biases_and_penalties_change_what_is_said() {
    let server = server().await;
    let settings = Settings {
        model: demo_model(),
        ..Settings::default()
    };
    let tokenizer = engine::tokenizer(&settings).unwrap();
    let token = tokenizer.encode("asthma", Special::AsText)[0];
    let word = String::from_utf8(tokenizer.bytes(token)).unwrap();
    let bias = json!({ token.to_string(): 100 });
    let asked = json!({ "logit_bias": bias, "temperature": 0, "max_tokens": 5 });
    let (text, end) = answer(&server, asked).await;
    assert_eq!(
        (text.as_str(), end.as_str()),
        (word.repeat(5).trim_start(), "length")
    );

    let plain = json!({ "temperature": 0, "max_tokens": 200 });
    let (plain, end) = answer(&server, plain).await;
    assert_eq!(end, "stop", "{plain}");
    let kept =
        json!({ "temperature": 0, "max_tokens": 200, "logit_bias": { token.to_string(): 0 } });
    assert_eq!(
        answer(&server, kept).await.0,
        plain,
        "a bias of 0 changes nothing"
    );
    // A reward for what was said: it says the same for ever. Both names mean the same.
    let loops = async |name: &str| {
        let asked =
            json!({ "temperature": 0, "max_tokens": 200, name: 0.1, "frequency_penalty": -2 });
        answer(&server, asked).await
    };
    let (looped, end) = loops("repeat_penalty").await;
    assert_eq!(end, "length", "{looped}");
    assert_eq!(loops("repetition_penalty").await.0, looped);
    // Only the likeliest token is left, whatever the temperature.
    for cut in [
        json!({ "min_p": 1 }),
        json!({ "top_k": 1 }),
        json!({ "top_p": 0 }),
    ] {
        let mut asked = cut.clone();
        asked["temperature"] = json!(2);
        asked["max_tokens"] = json!(200);
        assert_eq!(answer(&server, asked).await.0, plain, "{cut}");
    }
}
