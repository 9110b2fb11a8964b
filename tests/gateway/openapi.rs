//! `/openapi.json` describes what there is, and what there is looks as described.

use serde_json::{Value, json};

use crate::support::server::Server;

/// The schema that a reference names.
fn resolved<'a>(api: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(path) => api.pointer(path.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

/// Each described field is there and each field is described, all the way down.
fn conforms(api: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = resolved(api, schema);
    match value {
        Value::Object(fields) => {
            let described = schema["properties"].as_object();
            let described = described.unwrap_or_else(|| panic!("{at}: {schema}"));
            for name in schema["required"].as_array().into_iter().flatten() {
                let name = name.as_str().unwrap();
                assert!(
                    fields.contains_key(name),
                    "{at}.{name} is missing in {value}"
                );
            }
            for (name, inner) in fields {
                let inner_schema = described.get(name);
                let inner_schema =
                    inner_schema.unwrap_or_else(|| panic!("{at}.{name} is not described"));
                conforms(api, inner_schema, inner, &format!("{at}.{name}"));
            }
        }
        Value::Array(all) => {
            for inner in all {
                conforms(api, &schema["items"], inner, &format!("{at}[]"));
            }
        }
        Value::Null => {}
        other => {
            let kind = match other {
                Value::String(_) => "string",
                Value::Bool(_) => "boolean",
                _ => "number",
            };
            let told = schema["type"].to_string().replace("integer", "number");
            assert!(told.contains(kind), "{at}: {other} is no {told}");
        }
    }
}

#[tokio::test]
async fn every_route_is_described_and_answers_as_described() {
    let server = Server::start(&["engine.kind=scripted"]).await;
    let get = async |route: &str| {
        let response = server
            .client
            .get(format!("{}{route}", server.base))
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap())
    };
    let (_, api) = get("/openapi.json").await;
    assert!(api["openapi"].as_str().unwrap().starts_with("3.1"), "{api}");
    let mut routes: Vec<String> = Vec::new();
    for (path, methods) in api["paths"].as_object().unwrap() {
        routes.extend(
            methods
                .as_object()
                .unwrap()
                .keys()
                .map(|m| format!("{m} {path}")),
        );
    }
    routes.sort();
    let expected = [
        "delete /chat/stream/{response_id}",
        "delete /sessions/{id}",
        "get /chat/stream/{response_id}",
        "get /health",
        "get /ready",
        "get /sessions/{id}",
        "get /v1/models",
        "post /chat",
        "post /chat/stream",
        "post /v1/chat/completions",
    ];
    assert_eq!(routes, expected);
    let message = json!({ "message": "q", "session_id": "s" });
    let completion = json!({ "messages": [{ "role": "user", "content": "q" }] });
    let wrong = json!({ "message": "" });
    let posts = [
        ("/chat", &message),
        ("/v1/chat/completions", &completion),
        ("/chat", &wrong),
        ("/chat/stream", &wrong),
    ];
    let mut answers = Vec::new();
    for (route, body) in posts {
        let response = server.post(route, body.clone()).await;
        let status = response.status().as_u16();
        answers.push(("post", route, status, response.json().await.unwrap()));
    }
    for route in ["/health", "/ready", "/v1/models"] {
        let (status, answer) = get(route).await;
        answers.push(("get", route, status, answer));
    }
    for (session, expected) in [("s", 200), ("none", 404)] {
        let (status, answer) = get(&format!("/sessions/{session}")).await;
        assert_eq!(status, expected);
        answers.push(("get", "/sessions/{id}", status, answer));
    }
    for (method, route, status, answer) in answers {
        let described = &api["paths"][route][method]["responses"][status.to_string()];
        let schema = &described["content"]["application/json"]["schema"];
        assert!(
            schema.is_object(),
            "{method} {route} {status} is not described"
        );
        conforms(&api, schema, &answer, route);
    }
}

/// The admin address describes its own routes: all of those that its code names.
#[tokio::test]
async fn every_admin_route_is_described() {
    let server = Server::start(&["engine.kind=scripted"]).await;
    let api = server.admin("/openapi.json").await;
    let described: Vec<_> = api["paths"].as_object().unwrap().keys().collect();
    let code = include_str!("../../host/src/api/admin.rs");
    let routed = code.split(".route(").skip(1);
    let routed = routed.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
    let mut routed: Vec<_> = routed.filter(|route| *route != "/openapi.json").collect();
    routed.sort_unstable();
    assert_eq!(described, routed);
    for route in described {
        if api["paths"][route].get("get").is_none() {
            continue;
        }
        let asked = format!("{}{}", server.admin, route.replace("{hook}", "trim"));
        let response = server.client.get(asked).send().await.unwrap();
        let status = response.status().to_string();
        let status = status.split(' ').next().unwrap();
        let told = &api["paths"][route]["get"]["responses"][status];
        assert!(told.is_object(), "{route} {status} is not described");
    }
}
