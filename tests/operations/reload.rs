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
