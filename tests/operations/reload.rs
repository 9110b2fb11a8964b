//! Another configuration while serving.

use serde_json::{Value, json};

use crate::support::server::Server;

async fn answer(server: &Server) -> Value {
    let response = server.post("/chat", json!({ "message": "Hello" })).await;
    assert_eq!(response.status(), 200, "{}", server.log());
    response.json().await.unwrap()
}

const FIRST: &str = "[engine]\nkind = \"scripted\"\nmax_tokens = 3\n\
                     script.text = \"one two three four five six\"\n[cache]\nstore = \"off\"\n";

#[tokio::test]
async fn a_changed_file_holds_from_the_next_request_on_and_the_rest_is_named() {
    let server = Server::launch(&[], |policies| {
        std::fs::write(policies.with_file_name("stent.toml"), FIRST).unwrap();
    });
    server
        .until("it is ready", async |s| {
            let ready = s.client.get(format!("{}/ready", s.base)).send().await;
            ready.is_ok_and(|response| response.status() == 200)
        })
        .await;
    let said = |answer: &Value| answer.to_string();
    assert!(!said(&answer(&server).await).contains("four"));
    let file = server.folder.path().join("stent.toml");

    let changed = FIRST.replace("max_tokens = 3", "max_tokens = 5\nslots = 9");
    std::fs::write(&file, changed + "[policies.trim.config]\nexchanges = 7\n").unwrap();
    server
        .until("the longer answer comes", async |s| {
            said(&answer(s).await).contains("five")
        })
        .await;
    server
        .until("what cannot change is named", async |s| {
            s.log().contains("engine.slots") && s.log().contains("policies.trim.config")
        })
        .await;
    assert_eq!(server.idle_slots().await, 4);

    // A mistake changes nothing, by signal as by file.
    std::fs::write(&file, "[engine]\nsloots = 1\n").unwrap();
    server.signal("HUP");
    server
        .until("the mistake is told", async |s| s.log().contains("sloots"))
        .await;
    assert!(said(&answer(&server).await).contains("five"));
}

/// Serves with this file, and waits until it is ready.
async fn with_file(text: &str, sets: &[&str]) -> Server {
    let server = Server::launch(sets, |policies| {
        std::fs::write(policies.with_file_name("stent.toml"), text).unwrap();
    });
    let ready = async |s: &Server| {
        let asked = s.client.get(format!("{}/ready", s.base)).send().await;
        asked.is_ok_and(|response| response.status() == 200)
    };
    server.until("it is ready", ready).await;
    server
}

/// Changes the file and has it read at once; waits until the log says so.
async fn reload(server: &Server, text: &str) {
    let told = |s: &Server| s.log().matches("configuration reloaded").count();
    let before = told(server);
    let file = server.folder.path().join("stent.toml");
    std::fs::write(file, text).unwrap();
    server.signal("HUP");
    server
        .until("it was read", async |s| told(s) > before)
        .await;
}

/// The status of a question, with this key.
async fn asked(server: &Server, key: &str) -> u16 {
    let request = server.client.post(format!("{}/chat", server.base));
    let request = request.json(&json!({ "message": "Hello" }));
    request
        .bearer_auth(key)
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}

#[tokio::test]
async fn keys_and_limits_change_while_it_serves() {
    let sha256 = |key: &str| {
        use sha2::Digest as _;
        hex::encode(sha2::Sha256::digest(key))
    };
    let entry = |tenant: &str, key: &str| {
        format!(
            "[[server.keys]]\ntenant = \"{tenant}\"\nsha256 = \"{}\"\n",
            sha256(key)
        )
    };
    let (a, b) = (entry("a", "one"), entry("b", "two"));
    let limits = "[server.limits]\nper_minute = 2\n";
    let server = with_file(&format!("{limits}{a}"), &["engine.kind=scripted"]).await;
    assert_eq!(asked(&server, "one").await, 200);
    assert_eq!(asked(&server, "two").await, 401);

    reload(&server, &format!("{limits}{a}{b}")).await;
    assert_eq!(asked(&server, "two").await, 200);
    assert_eq!(asked(&server, "one").await, 200);
    // A reload gives nobody a fresh minute.
    reload(&server, &format!("{limits}{b}{a}")).await;
    assert_eq!(asked(&server, "one").await, 429);

    let more = "[server.limits]\nper_minute = 100\n[server.tenants.b]\nper_minute = 1\n";
    reload(&server, &format!("{more}{a}{b}")).await;
    assert_eq!(asked(&server, "one").await, 200);
    assert_eq!(
        [asked(&server, "two").await, asked(&server, "two").await],
        [200, 429]
    );

    reload(&server, &format!("{limits}{b}")).await;
    assert_eq!(asked(&server, "one").await, 401);
    // The admin address gets its token, and keeps it.
    let admin = format!("{}/admin/slots", server.admin);
    let token = format!("[server]\nadmin_token = \"{}\"\n", sha256("secret"));
    reload(&server, &format!("{token}{b}")).await;
    assert_eq!(
        server.client.get(&admin).send().await.unwrap().status(),
        401
    );
    let with_token = server.client.get(&admin).bearer_auth("secret").send();
    assert_eq!(with_token.await.unwrap().status(), 200);
}

#[tokio::test]
async fn origins_and_the_log_filter_change_while_it_serves() {
    let server = with_file(
        "[log]\nfilter = \"warn,stent=info\"\n",
        &["engine.kind=scripted"],
    )
    .await;
    let origin = "http://localhost:3000";
    let allowed = async || {
        let request = server.client.get(format!("{}/health", server.base));
        let response = request.header("origin", origin).send().await.unwrap();
        response
            .headers()
            .contains_key("access-control-allow-origin")
    };
    assert!(!allowed().await);
    let open = format!("[server]\ncors_origins = [\"{origin}\"]\nmax_body = 64\n");
    let log = "[log]\nfilter = \"info,stent::policy=debug\"\n";
    reload(&server, &format!("{open}{log}")).await;
    assert!(allowed().await);
    let filter = server.admin("/admin/log").await;
    assert_eq!(filter["filter"], "info,stent::policy=debug");
    assert_eq!(filter["configured"], filter["filter"]);
    let long = server
        .post("/chat", json!({ "message": "x".repeat(100) }))
        .await;
    assert_eq!(long.status(), 413);
    reload(&server, log).await;
    assert!(!allowed().await);
}

/// Its key is nowhere to be read, and yet its change is told.
#[tokio::test]
async fn another_key_of_an_upstream_is_named() {
    let file = |key: &str| {
        format!(
            "[engine]\nkind = \"openai\"\n\
             upstreams = [{{ url = \"http://127.0.0.1:9/v1\", key = \"{key}\" }}]\n"
        )
    };
    let server = Server::launch(&[], |policies| {
        std::fs::write(policies.with_file_name("stent.toml"), file("s3cret-one")).unwrap();
    });
    server
        .until("it serves", async |s| s.log().contains("ready_after_ms"))
        .await;
    reload(&server, &file("s3cret-two")).await;
    server
        .until("the key is named", async |s| {
            s.log().contains("engine.upstreams")
        })
        .await;
    assert!(!server.log().contains("s3cret"));
}
