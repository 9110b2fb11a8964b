//! The pages and the routes that the console reads: headers, caching, uploads, the ring of traces.

use serde_json::{Value, json};

use crate::policy::guest::{Guest, keeper};
use crate::support::server::Server;

const SCRIPTED: [&str; 1] = ["engine.kind=scripted"];

/// The addresses of the files that a page names.
fn files(html: &str) -> Vec<String> {
    let quoted = html.split('"').filter(|text| text.starts_with("assets/"));
    quoted.map(str::to_owned).collect()
}

async fn get(server: &Server, url: &str, tag: Option<&str>) -> reqwest::Response {
    let mut asked = server.client.get(url);
    if let Some(tag) = tag {
        asked = asked.header("if-none-match", tag);
    }
    asked.send().await.unwrap()
}

fn header<'a>(response: &'a reqwest::Response, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn both_pages_come_with_their_files_and_strict_headers() {
    let server = Server::start(&SCRIPTED).await;
    let console = format!("{}/console", server.admin);
    for (base, page) in [
        (&server.base, format!("{}/", server.base)),
        (&server.admin, format!("{}/", server.admin)),
        (&server.admin, console),
    ] {
        let response = get(&server, &page, None).await;
        assert_eq!(response.status(), 200, "{page}");
        assert_eq!(
            header(&response, "content-type"),
            "text/html; charset=utf-8"
        );
        assert_eq!(header(&response, "cache-control"), "no-cache");
        let tag = header(&response, "etag").to_owned();
        assert!(tag.len() > 30, "{tag}");
        let html = response.text().await.unwrap();
        // Nothing that the policy below would have to allow.
        assert!(
            !html.contains(" style=") && !html.contains(" onclick="),
            "{page}"
        );
        assert!(!html.contains('{'), "a place of the page was left open");
        let again = get(&server, &page, Some(&tag)).await;
        assert_eq!(again.status(), 304);
        let mut files = files(&html);
        assert!(files.len() >= 4, "{files:?}");
        // Modules that modules import.
        let module = files
            .iter()
            .find(|file| file.ends_with("main.js"))
            .unwrap()
            .clone();
        let folder = module.trim_end_matches("main.js");
        let text = get(&server, &format!("{base}/{module}"), None)
            .await
            .text()
            .await
            .unwrap();
        let imports = text.split('"').filter(|it| it.ends_with(".js"));
        files.extend(imports.map(|it| format!("{folder}{it}")));
        for file in files {
            let url = format!("{base}/{file}");
            let response = get(&server, &url, None).await;
            assert_eq!(response.status(), 200, "{url}");
            let policy = header(&response, "content-security-policy");
            for part in [
                "default-src 'none'",
                "script-src 'self'",
                "frame-ancestors 'none'",
            ] {
                assert!(policy.contains(part), "{policy}");
            }
            assert!(!policy.contains("unsafe"), "{policy}");
            assert_eq!(header(&response, "x-content-type-options"), "nosniff");
            assert!(header(&response, "cache-control").contains("immutable"));
            let tag = header(&response, "etag").to_owned();
            assert_eq!(get(&server, &url, Some(&tag)).await.status(), 304);
            assert_eq!(get(&server, &url, Some("\"other\"")).await.status(), 200);
        }
        let foreign = format!("{base}/assets/0000000000000000/shared/base.css");
        assert_eq!(get(&server, &foreign, None).await.status(), 404);
    }
}

#[tokio::test]
async fn the_chat_page_can_be_left_out_and_names_the_viewer_of_traces() {
    let without = Server::start(&["engine.kind=scripted", "server.page=false"]).await;
    let url = format!("{}/", without.base);
    assert_eq!(get(&without, &url, None).await.status(), 404);
    let viewer = "telemetry.trace_url=http://t/?a=1&b=\"<{trace_id}";
    let with = Server::start(&["engine.kind=scripted", viewer]).await;
    let html = get(&with, &format!("{}/", with.base), None)
        .await
        .text()
        .await
        .unwrap();
    let expected = "content=\"http://t/?a=1&#38;b=&#34;&#60;{trace_id}\"";
    assert!(html.contains(expected), "{html}");
}

/// `POST /admin/policies?name=`, with what a browser adds.
async fn upload(
    server: &Server,
    name: &str,
    bytes: Vec<u8>,
    more: &[(&str, &str)],
) -> (u16, Value) {
    let name: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let route = format!("{}/admin/policies?name={name}", server.admin);
    let mut asked = server.client.post(route);
    if !more.iter().any(|(name, _)| *name == "content-type") {
        asked = asked.header("content-type", "application/wasm");
    }
    for (name, value) in more {
        asked = asked.header(*name, *value);
    }
    let response = asked.body(bytes).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn entry<'a>(policies: &'a Value, state: &str) -> &'a Value {
    let mut all = policies.as_array().unwrap().iter();
    all.find(|it| it["hook"] == "trim" && it["state"] == state)
        .unwrap_or_else(|| panic!("no {state} trim policy in {policies:#}"))
}

#[tokio::test]
async fn an_uploaded_policy_serves_and_its_calls_are_counted() {
    let server = Server::start(&SCRIPTED).await;
    let (status, policies) = upload(&server, "mine.wasm", keeper("mine"), &[]).await;
    assert_eq!(status, 200, "{policies}");
    let live = entry(&policies, "live");
    assert_eq!((&live["name"], &live["calls"]), (&json!("mine"), &json!(0)));
    assert!(server.policies().join("mine.wasm").exists());
    for turn in 0..3 {
        // Each is new: an answer that is remembered is no call.
        server
            .chat(&format!("Hello {turn}"), &format!("s{turn}"))
            .await;
    }
    let policies = server.admin("/admin/policies").await;
    let live = entry(&policies, "live");
    assert!(live["calls"].as_u64() >= Some(3), "{live}");
    assert_eq!(live["faults"], 0);
    assert!(live["p50_us"].as_u64().unwrap() <= live["p99_us"].as_u64().unwrap());
    // A broken one is kept out, with its reason; what served goes on and counts on.
    let (status, policies) = upload(&server, "mine.wasm", b"\0asm nonsense".to_vec(), &[]).await;
    assert_eq!(status, 200, "{policies}");
    let all = policies.as_array().unwrap();
    let rejected = all.iter().find(|it| it["state"] == "rejected").unwrap();
    assert!(
        rejected["reason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty())
    );
    assert!(entry(&policies, "live")["calls"].as_u64() >= Some(3));
    // Another policy of the hook is counted from nothing.
    let trap = Guest::trimmer("trap", "(unreachable)").core();
    upload(&server, "mine.wasm", trap, &[]).await;
    server.chat("Hello", "s").await;
    let policies = server.admin("/admin/policies").await;
    let live = entry(&policies, "live");
    assert_eq!(
        (&live["name"], live["faults"].as_u64() >= Some(1)),
        (&json!("trap"), true),
        "{live}"
    );
}

#[tokio::test]
async fn bad_names_types_and_sizes_are_refused_and_leave_nothing_behind() {
    let small = ["engine.kind=scripted", "policies.limits.file_bytes=100KiB"];
    let server = Server::start(&small).await;
    for name in [
        "",
        "../x.wasm",
        "a/b.wasm",
        ".x.wasm",
        "x.txt",
        "x.wasm.tmp",
        "x\u{e4}.wasm",
    ] {
        let (status, answer) = upload(&server, name, keeper("x"), &[]).await;
        assert_eq!(status, 400, "{name}: {answer}");
        assert_eq!(answer["error"]["param"], "name");
        let why = answer["error"]["message"].as_str().unwrap();
        assert!(why.contains("found") && why.contains("expected"), "{why}");
    }
    let text = [("content-type", "text/plain")];
    let (status, answer) = upload(&server, "x.wasm", keeper("x"), &text).await;
    assert_eq!(status, 415, "{answer}");
    let (status, answer) = upload(&server, "x.wasm", vec![0; 200 << 10], &[]).await;
    assert_eq!(status, 413, "{answer}");
    let why = answer["error"]["message"].as_str().unwrap();
    assert!(why.contains("policies.limits.file_bytes"), "{why}");
    let left: Vec<_> = std::fs::read_dir(server.policies()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!server.folder.path().join("x.wasm").exists());
}

#[tokio::test]
async fn pages_of_other_sites_may_not_operate_the_gateway() {
    let server = Server::start(&SCRIPTED).await;
    let foreign = [("origin", "http://evil.example")];
    let (status, answer) = upload(&server, "x.wasm", keeper("x"), &foreign).await;
    assert!((400..500).contains(&status), "{answer}");
    assert!(!server.policies().join("x.wasm").exists());
    let own = [("origin", server.admin.as_str())];
    let (status, answer) = upload(&server, "x.wasm", keeper("x"), &own).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn the_ring_shows_every_stage_and_nobodys_words() {
    const CANARY: &str = "canary-77a1";
    let sets = [
        "engine.kind=scripted",
        "telemetry.sample=0.0",
        "telemetry.capture_content=true",
        "engine.script.text=canary-77a1 says the engine",
    ];
    let server = Server::start(&sets).await;
    upload(&server, "mine.wasm", keeper("mine"), &[]).await;
    let answer = server.chat(CANARY, CANARY).await;
    let id = &answer["stent"]["trace_id"];
    let chat = |traces: &Value| {
        let mut all = traces.as_array().into_iter().flatten();
        all.find(|it| it["name"] == "POST /chat")
            .cloned()
            .unwrap_or_default()
    };
    let is_stored = |traces: &Value| {
        let chat = chat(traces);
        let mut stages = chat["stages"].as_array().into_iter().flatten();
        stages.any(|stage| stage["name"] == "session.append")
    };
    server
        .until("the trace is whole", async |s| {
            is_stored(&s.admin("/admin/traces").await)
        })
        .await;
    let traces = server.admin("/admin/traces").await;
    let chat = chat(&traces);
    assert_eq!(&chat["trace_id"], id);
    assert_eq!(chat["attributes"]["stent.outcome"], "ok");
    let stages = chat["stages"].as_array().unwrap();
    let find = |name: &str| {
        let found = stages.iter().find(|stage| stage["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {chat:#}"))
    };
    for name in [
        "session.load",
        "policy trim",
        "admission",
        "queue.wait",
        "prefill",
        "decode",
    ] {
        let stage = find(name);
        assert!(stage["duration_us"].as_i64().unwrap() >= 0);
    }
    let inference = stages
        .iter()
        .find(|s| s["name"].as_str().unwrap().starts_with("chat "));
    assert_eq!(find("decode")["parent"], inference.unwrap()["id"]);
    let changes = traces.as_array().unwrap();
    let change = changes
        .iter()
        .find(|it| it["name"] == "policy.reload")
        .unwrap();
    assert_eq!(change["attributes"]["stent.reload.result"], "swapped");
    assert!(!traces.to_string().contains(CANARY), "{traces:#}");
}

#[tokio::test]
async fn the_ring_is_bounded() {
    let server = Server::start(&SCRIPTED).await;
    for turn in 0..230 {
        server.chat("Hello", &format!("s{turn}")).await;
    }
    let all = server.admin("/admin/traces").await;
    assert_eq!(all.as_array().unwrap().len(), stent::trace::ring::TRACES);
    let some = server.admin("/admin/traces?limit=3").await;
    assert_eq!(some.as_array().unwrap().len(), 3);
    let wrong = server.admin("/admin/traces?limit=x").await;
    assert_eq!(
        wrong["error"]["message"],
        "limit: found \"x\", expected a number"
    );
}
