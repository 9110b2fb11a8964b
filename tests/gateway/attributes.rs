//! What an operator tells policies about a request.

use serde_json::{Value, json};

use crate::policy::guest::Guest;
use crate::support::server::Server;

/// A guard that answers with the attribute `plan`, or with "none".
fn teller() -> Vec<u8> {
    let mut guest = Guest::hookless("teller");
    guest.world = "guarding";
    guest
        .importing(
            r#"(import "stent:policy/request@0.1.0" "[method]request.attribute"
                (func $attribute (param i32 i32 i32 i32)))"#,
        )
        .with(
            r#"(data (i32.const 900) "plan") (data (i32.const 910) "none")
               (func (export "stent:policy/guard@0.1.0#check")
                 (param $req i32) (param $all i32) (result i32)
                 (call $attribute (local.get $req) (i32.const 900) (i32.const 4) (i32.const 1400))
                 (call $drop-request (local.get $req)) (call $drop-transcript (local.get $all))
                 (i32.store (i32.const 1028) (i32.const 2))
                 (if (i32.load8_u (i32.const 1400))
                   (then (i64.store (i32.const 1032) (i64.load (i32.const 1404))))
                   (else (i32.store (i32.const 1032) (i32.const 910))
                         (i32.store (i32.const 1036) (i32.const 4))))
                 (i32.const 1024))"#,
        )
        .core()
}

/// What the guard read on a request with these headers.
async fn told(server: &Server, plan: Option<&str>) -> String {
    let body = json!({ "message": "Hello" });
    let mut request = server.client.post(format!("{}/chat", server.base));
    if let Some(plan) = plan {
        request = request.header("X-Plan", plan);
    }
    let response = request.json(&body).send().await.unwrap();
    let answer: Value = response.json().await.unwrap();
    answer["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn policies_read_what_the_operator_shows_and_nothing_else() {
    let plan = r#"policies.attributes.plan={ header = "x-plan" }"#;
    for (sets, expected) in [
        (vec![plan], ["gold", "none"]),
        (vec!["policies.attributes.plan=silver"], ["silver"; 2]),
        (vec![], ["none"; 2]),
    ] {
        let sets = [&["engine.kind=scripted"], sets.as_slice()].concat();
        let server = Server::launch(&sets, |policies| {
            std::fs::write(policies.join("teller.wasm"), teller()).unwrap();
        });
        server
            .until("it is ready", async |s| {
                let ready = s.client.get(format!("{}/ready", s.base)).send().await;
                ready.is_ok_and(|r| r.status() == 200)
            })
            .await;
        let read = [told(&server, Some("gold")).await, told(&server, None).await];
        assert_eq!(read, expected, "{sets:?}\n{}", server.log());
    }
}
