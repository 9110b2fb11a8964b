//! What is wrong with a request.

use serde_json::{Value, json};

use crate::support::server::Server;

#[tokio::test]
async fn each_mistake_in_a_request_is_named() {
    let server = Server::start(&["engine.kind=scripted", "server.max_body=4KiB"]).await;
    let long = "x".repeat(129);
    let cases = [
        ("/chat/stream", json!({}), 400, "message: missing field"),
        (
            "/chat/stream",
            json!({ "message": " " }),
            400,
            "message: found no text",
        ),
        (
            "/chat/stream",
            json!({ "message": 5 }),
            400,
            "message: found 5, expected a text",
        ),
        (
            "/chat/stream",
            json!({ "message": "x", "sesion": "y" }),
            400,
            "sesion: unknown field",
        ),
        (
            "/chat",
            json!({ "message": "x", "session_id": "a b" }),
            400,
            "session_id: contains ' '",
        ),
        (
            "/chat",
            json!({ "message": "x", "session_id": "" }),
            400,
            "session_id: 0 bytes long",
        ),
        (
            "/chat",
            json!({ "message": "x", "session_id": long }),
            400,
            "session_id: 129 bytes",
        ),
        (
            "/chat",
            json!({ "message": "x", "temperature": 9 }),
            400,
            "temperature: found 9",
        ),
        (
            "/chat",
            json!({ "message": "x", "temperature": "x" }),
            400,
            "temperature: found the text \"x\", expected a number",
        ),
        (
            "/chat",
            json!({ "message": "x", "max_tokens": 0 }),
            400,
            "max_tokens: found 0, expected a whole number, 1 or more",
        ),
        (
            "/chat",
            json!({ "message": "x", "max_tokens": -1 }),
            400,
            "max_tokens: found -1, expected a whole number, 1 or more",
        ),
        (
            "/chat",
            json!(null),
            400,
            "the body is wrong: found null, expected a JSON object",
        ),
        (
            "/v1/chat/completions",
            json!("x"),
            400,
            "the body is wrong: found the text \"x\", expected a JSON object",
        ),
        (
            "/chat",
            json!({ "message": "x", "max_tokens": 99999 }),
            400,
            "max_tokens: found 99999, expected at most 20",
        ),
        (
            "/v1/chat/completions",
            json!({ "max_completion_tokens": 99999, "messages": [{ "role": "user", "content": "x" }] }),
            400,
            "max_completion_tokens: found 99999, expected at most 20",
        ),
        // 3,900 bytes are 1,300 tokens of the scripted engine.
        (
            "/chat/stream",
            json!({ "message": "x".repeat(3900) }),
            400,
            "message: needs 13",
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "x".repeat(3900) }] }),
            400,
            "messages: needs 13",
        ),
        (
            "/chat",
            json!({ "message": "x", "seed": "often" }),
            400,
            "seed: found the text \"often\", expected a number, \"derived\" or \"random\"",
        ),
        (
            "/chat",
            json!({ "message": "x".repeat(5000) }),
            413,
            "server.max_body",
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [] }),
            400,
            "messages: found none",
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "boss", "content": "x" }] }),
            400,
            "messages[0].role: found \"boss\"",
        ),
        (
            "/v1/chat/completions",
            json!({ "n": 2, "messages": [{ "role": "user", "content": "x" }] }),
            400,
            "n: found 2",
        ),
        ("/chats", json!({ "message": "x" }), 404, "no such route"),
    ];
    let forms = [
        (
            json!({ "response_format": { "type": "json_object" } }),
            "response_format: the grammar cannot be used: engine.kind \"scripted\" says a fixed text",
        ),
        (
            json!({ "response_format": "json" }),
            "response_format: found the text \"json\", expected a JSON object",
        ),
        (
            json!({ "response_format": { "type": "yaml" } }),
            "response_format.type: found \"yaml\", expected \"text\", \"json_object\" or \"json_schema\"",
        ),
        (
            json!({ "response_format": { "type": "json_schema" } }),
            "response_format.json_schema.schema: found none, expected a JSON schema",
        ),
        (
            json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": [] } } }),
            "response_format.json_schema.schema: found no JSON object, expected a JSON schema",
        ),
        (
            json!({ "response_format": { "type": "json_object", "schema": { "type": "colour" } } }),
            "response_format.schema: this schema cannot be followed",
        ),
        (
            json!({ "logit_bias": { "yes": 1 } }),
            "logit_bias: found the name \"yes\", expected a token's number",
        ),
        (
            json!({ "logit_bias": { "7": 101 } }),
            "logit_bias: found 101 for token 7, expected -100 to 100",
        ),
        (
            json!({ "logit_bias": { "-7": 1 } }),
            "logit_bias: found token -7, expected 0 to ",
        ),
        (
            json!({ "repetition_penalty": 0 }),
            "repeat_penalty: found 0, expected 0.1 to 10",
        ),
        (
            json!({ "presence_penalty": 2.5 }),
            "presence_penalty: found 2.5, expected -2 to 2",
        ),
        (
            json!({ "min_p": -0.5 }),
            "min_p: found -0.5, expected 0 to 1",
        ),
        (
            json!({ "tools": [{ "type": "function" }] }),
            "tools: found 1, expected none: tools are not supported yet",
        ),
        (
            json!({ "functions": [{}, {}] }),
            "functions: found 2, expected none: functions are not supported yet",
        ),
        (
            json!({ "logprobs": true }),
            "logprobs: found true, expected false: engine.kind \"scripted\" draws no tokens",
        ),
    ];
    let forms = forms.map(|(mut body, words)| {
        body["messages"] = json!([{ "role": "user", "content": "x" }]);
        ("/v1/chat/completions", body, 400, words)
    });
    let cases = cases.into_iter().chain(forms);
    for (route, body, status, words) in cases {
        let response = server.post(route, body.clone()).await;
        assert_eq!(response.status(), status, "{route} {body}");
        let error: Value = response.json().await.unwrap();
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{body}: {message}");
        assert!(error["error"]["code"].is_string() && error["error"]["type"].is_string());
    }
    let raw = |media: &'static str, body: &'static str| {
        let url = format!("{}/chat", server.base);
        server
            .client
            .post(url)
            .header("content-type", media)
            .body(body)
            .send()
    };
    for (body, words) in [
        (
            "{\"message\":",
            "the body is not valid JSON: EOF while parsing a value at line 1 column 11",
        ),
        (
            "{\"message\": \"x\",}",
            "the body is not valid JSON: trailing comma at line 1 column 17",
        ),
        (
            "",
            "the body is not valid JSON: EOF while parsing a value at line 1 column 0",
        ),
    ] {
        let response = raw("application/json", body).await.unwrap();
        assert_eq!(response.status(), 400, "{body}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["message"], words, "{body}");
        assert_eq!(error["error"]["code"], "malformed_body", "{body}");
    }
    // Without a length beforehand, the limit is found while the body comes.
    let chunks = (0..50).map(|_| Ok::<_, std::io::Error>(" ".repeat(100)));
    let chunked = server
        .client
        .post(format!("{}/chat", server.base))
        .header("content-type", "application/json")
        .body(reqwest::Body::wrap_stream(futures::stream::iter(chunks)))
        .send()
        .await
        .unwrap();
    assert_eq!(chunked.status(), 413);
    let error: Value = chunked.json().await.unwrap();
    assert_eq!(error["error"]["code"], "body_too_large");
    // A path that is no text.
    for (method, url) in [
        ("GET", format!("{}/sessions/%FF", server.base)),
        ("DELETE", format!("{}/sessions/%FF", server.base)),
        (
            "POST",
            format!("{}/admin/policies/%FF/rollback", server.admin),
        ),
        (
            "POST",
            format!("{}/admin/policies/%FF/promote", server.admin),
        ),
    ] {
        let request = server.client.request(method.parse().unwrap(), &url);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 400, "{url}");
        let error: Value = response.json().await.unwrap();
        let message = error["error"]["message"].as_str().unwrap();
        let words = "is not UTF-8 behind its percent signs";
        assert!(
            message.starts_with("path: /") && message.ends_with(words),
            "{message}"
        );
        assert_eq!(error["error"]["param"], "path", "{url}");
    }
    assert_eq!(raw("text/plain", "{}").await.unwrap().status(), 415);
    let get = server
        .client
        .get(format!("{}/chat", server.base))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (
            get.status().as_u16(),
            get.headers()["allow"].to_str().unwrap()
        ),
        (405, "POST")
    );
    for (method, route, allowed) in [
        ("POST", "/admin/slots", "GET"),
        ("DELETE", "/metrics", "GET"),
        ("GET", "/admin/policies/trim/rollback", "POST"),
        ("PUT", "/admin/policies/reload", "POST"),
        ("GET", "/admin/policies/trim/config", "POST"),
        ("POST", "/admin/policies/trim/history", "GET"),
    ] {
        let url = format!("{}{route}", server.admin);
        let request = server.client.request(method.parse().unwrap(), url);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 405, "{route}");
        assert_eq!(response.headers()["allow"], allowed, "{route}");
        let error: Value = response.json().await.unwrap();
        let told = format!("method {method} is not allowed here; allowed: {allowed}");
        assert_eq!(error["error"]["message"], told, "{route}");
    }
    // What asks for nothing special is no mistake.
    let plain = json!({ "messages": [{ "role": "user", "content": "x" }], "tools": [],
        "functions": null, "response_format": { "type": "text" }, "logprobs": false });
    assert_eq!(
        server.post("/v1/chat/completions", plain).await.status(),
        200
    );
    server.chat("still there?", "after").await;
}
