//! Keys, tenants and their limits, and the token of the admin routes.

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use stent::access::Digest;

use crate::support::server::{Frames, Server, command, told};

/// Keys "one" and "two" of tenants a and b.
fn keys() -> String {
    let entry = |tenant: &str, key: &str| {
        let digest = Digest::of(key);
        format!("{{ tenant = \"{tenant}\", sha256 = \"{digest}\" }}")
    };
    format!("server.keys=[{}, {}]", entry("a", "one"), entry("b", "two"))
}

async fn post(server: &Server, key: &str, route: &str, body: Value) -> Response {
    let asked = server.client.post(format!("{}{route}", server.base));
    asked.bearer_auth(key).json(&body).send().await.unwrap()
}

async fn error(response: Response) -> Value {
    let error: Value = response.json().await.unwrap();
    error["error"].clone()
}

#[tokio::test]
async fn without_a_known_key_nothing_is_answered_or_read() {
    let server = Server::start(&["engine.kind=scripted", &keys()]).await;
    // The body is broken: who is not let in does not learn that.
    for (route, method) in [
        ("/chat/stream", "POST"),
        ("/chat", "POST"),
        ("/v1/chat/completions", "POST"),
        ("/v1/models", "GET"),
        ("/sessions/s", "GET"),
        ("/sessions/s", "DELETE"),
        ("/nowhere", "GET"),
    ] {
        for (key, code) in [(None, "missing_key"), (Some("three"), "invalid_api_key")] {
            let method = method.parse().unwrap();
            let mut asked = server
                .client
                .request(method, format!("{}{route}", server.base));
            if let Some(key) = key {
                asked = asked.bearer_auth(key);
            }
            let refused = asked.body("{").send().await.unwrap();
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{route}");
            assert_eq!(
                refused.headers()["www-authenticate"],
                "Bearer realm=\"stent\""
            );
            let error = error(refused).await;
            assert_eq!(
                (&error["code"], &error["type"]),
                (&json!(code), &json!("authentication_error"))
            );
        }
    }
    for open in ["/health", "/ready"] {
        let response = server.client.get(format!("{}{open}", server.base)).send();
        assert_eq!(response.await.unwrap().status(), 200, "{open}");
    }
    let answered = post(&server, "one", "/chat", json!({ "message": "hello" })).await;
    assert_eq!(answered.status(), 200);
    let secrets = [server.log(), server.metrics().await].concat();
    assert!(!secrets.contains("three"), "{secrets}");
}

#[tokio::test]
async fn one_tenant_meets_nothing_of_another() {
    let sets = [
        "engine.kind=scripted",
        "engine.script.token=30ms",
        // As wide as an operator can open it within a tenant.
        "policies.cache.scope=tenant",
        "policies.cache.config={ scope = \"tenant\" }",
        &keys(),
    ];
    let server = Server::start(&sets).await;
    let ask = |message: &str, session: &str| json!({ "message": message, "session_id": session });
    // The same question at the same time: one run for one tenant, another for the other. A session
    // has one writer, so the two of one tenant are two sessions.
    let streams = [("one", "s"), ("one", "t"), ("two", "s")]
        .map(|(key, session)| post(&server, key, "/chat/stream", ask("q", session)));
    let streams = futures::future::join_all(streams).await;
    let mut shared = Vec::new();
    for stream in streams {
        shared.push(told(&Frames::of(stream).rest().await).1["coalesced"] == true);
    }
    let of_one = shared[..2].iter().filter(|&&shared| shared).count();
    assert_eq!((of_one, shared[2]), (1, false), "{shared:?}");
    // What one tenant's answer left in the cache is there for it alone.
    let cached = async |key: &str, message: &str| {
        let body = json!({ "message": message });
        let answer: Value = post(&server, key, "/chat", body)
            .await
            .json()
            .await
            .unwrap();
        answer["stent"]["cached"] == true
    };
    assert!(!cached("one", "r").await);
    assert!(cached("one", "r").await, "the cache is on");
    assert!(!cached("two", "r").await);
    // A session belongs to its tenant, whoever knows its name.
    let body = json!({ "message": "secret", "session_id": "mine" });
    assert_eq!(post(&server, "one", "/chat", body).await.status(), 200);
    let session = async |key: &str, method: &str| {
        let url = format!("{}/sessions/mine", server.base);
        let asked = server
            .client
            .request(method.parse().unwrap(), url)
            .bearer_auth(key);
        asked.send().await.unwrap().status().as_u16()
    };
    assert_eq!(session("two", "GET").await, 404);
    assert_eq!(session("two", "DELETE").await, 404);
    assert_eq!(session("one", "GET").await, 200);
    assert_eq!(session("one", "DELETE").await, 204);
}

#[tokio::test]
async fn a_tenant_that_asks_too_often_waits_and_the_others_do_not() {
    let sets = [
        "engine.kind=scripted",
        "server.limits.per_minute=2",
        &keys(),
    ];
    let server = Server::start(&sets).await;
    let ask = async |key: &str| post(&server, key, "/chat", json!({ "message": "q" })).await;
    assert_eq!(ask("one").await.status(), 200);
    assert_eq!(ask("one").await.status(), 200);
    let refused = ask("one").await;
    assert_eq!(refused.status(), 429);
    let wait: u64 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=31).contains(&wait), "{wait}");
    assert!(refused.headers().contains_key("traceresponse"));
    let error = error(refused).await;
    assert_eq!(
        (&error["code"], &error["type"]),
        (&json!("rate_limited"), &json!("rate_limit_error"))
    );
    assert_eq!(ask("two").await.status(), 200);
    // What is no question is not counted.
    let session = server
        .client
        .get(format!("{}/sessions/x", server.base))
        .bearer_auth("one");
    assert_eq!(session.send().await.unwrap().status(), 404);
    let counted = server.metrics().await;
    let refused = counted.lines().any(|l| {
        l.contains("stent_requests_total{") && l.contains("overloaded") && l.ends_with(" 1")
    });
    assert!(refused, "{counted}");
}

#[tokio::test]
async fn a_tenant_has_its_places_and_gets_them_back() {
    let sets = [
        "engine.kind=scripted",
        "engine.script.token=100ms",
        "server.limits.concurrent=1",
        "server.tenants.b.concurrent=2",
        &keys(),
    ];
    let server = Server::start(&sets).await;
    let stream = async |key: &str| {
        let body = json!({ "message": "q", "seed": "random" });
        let response = post(&server, key, "/chat/stream", body).await;
        (response.status().as_u16(), response)
    };
    let (status, first) = stream("one").await;
    assert_eq!(status, 200);
    let (status, second) = stream("one").await;
    assert_eq!(status, 429);
    assert!(second.headers().contains_key("retry-after"));
    assert_eq!(error(second).await["code"], "too_many_at_once");
    let ((third, x), (fourth, y), (fifth, _)) = (
        stream("two").await,
        stream("two").await,
        stream("two").await,
    );
    assert_eq!((third, fourth, fifth), (200, 200, 429));
    // Free as soon as the answer is complete, and when its reader leaves.
    Frames::of(first).rest().await;
    assert_eq!(stream("one").await.0, 200);
    drop((x, y));
    server
        .until("the places are free again", async |_| {
            stream("two").await.0 == 200
        })
        .await;
}

#[tokio::test]
async fn the_admin_routes_ask_for_their_own_token() {
    let token = format!("server.admin_token={}", Digest::of("secret"));
    let server = Server::start(&["engine.kind=scripted", &token, &keys()]).await;
    let get = async |route: &str, user: Option<&str>| {
        let mut asked = server.client.get(format!("{}{route}", server.admin));
        if let Some(password) = user {
            asked = asked.basic_auth("prometheus", Some(password));
        }
        asked.send().await.unwrap()
    };
    for route in ["/metrics", "/admin/policies", "/admin/slots", "/nowhere"] {
        let refused = get(route, None).await;
        assert_eq!(refused.status(), 401, "{route}");
        // So that a browser asks its user.
        assert!(
            refused.headers()["www-authenticate"]
                .to_str()
                .unwrap()
                .starts_with("Basic")
        );
        // A tenant's key is no admin token.
        assert_eq!(get(route, Some("one")).await.status(), 401, "{route}");
    }
    assert_eq!(get("/metrics", Some("secret")).await.status(), 200);
    // The console's page holds nothing, and asks for the token itself.
    assert_eq!(get("/", None).await.status(), 200);
    assert_eq!(get("/console", None).await.status(), 200);
    let asked = server.client.get(format!("{}/admin/slots", server.admin));
    let refused = asked.header("x-requested-with", "console").send().await;
    let refused = refused.unwrap();
    assert_eq!(refused.status(), 401);
    assert!(!refused.headers().contains_key("www-authenticate"));
    let list = |token: Option<&str>| {
        let mut list = command();
        list.args(["policy", "list", "--admin"]).arg(&server.admin);
        if let Some(token) = token {
            list.env("STENT_ADMIN_TOKEN", token);
        }
        let output = list.output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (refused, said) = list(None);
    assert!(!refused && said.contains("server.admin_token"), "{said}");
    assert!(list(Some("secret")).0);
    // The public address knows no admin route, whoever asks.
    for route in ["/metrics", "/admin/policies", "/admin/slots"] {
        for key in ["one", "secret"] {
            let asked = server
                .client
                .get(format!("{}{route}", server.base))
                .bearer_auth(key);
            let status = asked.send().await.unwrap().status();
            assert_eq!(status, if key == "one" { 404 } else { 401 }, "{route}");
        }
    }
}

#[tokio::test]
async fn a_name_that_points_here_does_not_open_the_admin_routes() {
    let server = Server::start(&["engine.kind=scripted"]).await;
    let status = async |name: &str, value: &str| {
        let asked = server
            .client
            .post(format!("{}/admin/policies/reload", server.admin));
        asked
            .header(name, value)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(status("host", "evil.example:8001").await, 403);
    assert_eq!(status("host", "localhost:8001").await, 200);
}

#[test]
fn a_new_key_is_what_the_configuration_takes() {
    let run = |arguments: &[&str]| {
        let output = command()
            .args(["key", "new"])
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stent.toml");
    for arguments in [["clinic-1"], ["--admin"]] {
        let (good, printed, said) = run(&arguments);
        assert!(good, "{said}");
        let key = printed.lines().next().unwrap();
        let lines: Vec<_> = printed
            .lines()
            .skip(1)
            .filter(|l| !l.contains("Nothing"))
            .collect();
        assert!(
            printed.contains(&Digest::of(key).to_string()) && key.len() > 64,
            "{printed}"
        );
        assert!(
            !lines.concat().contains(key),
            "the configuration holds no key"
        );
        std::fs::write(&file, lines.join("\n")).unwrap();
        let mut check = command();
        check.args([
            "serve",
            "--check-config",
            "--set",
            "engine.kind=scripted",
            "--config",
        ]);
        let output = check.arg(&file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_ne!(run(&["x"]).1, run(&["x"]).1);
    let (good, _, said) = run(&["a b"]);
    assert!(
        !good && said.contains("\"a b\", expected 1 to 64 letters"),
        "{said}"
    );
    assert!(!run(&[]).0);
}
