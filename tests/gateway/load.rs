//! More people than slots: queue, refusal, departure, shutdown. The scripted engine sets the pace.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::server::{Frames, Server, told};

/// Slow enough to look at, on a busy machine too: twelve words of 150 ms each.
const SLOW: [&str; 3] = [
    "engine.kind=scripted",
    "engine.script.token=150ms",
    "cache.store=off",
];

#[tokio::test]
async fn the_fifth_waits_and_is_told_its_place() {
    let server = Server::start(&SLOW).await;
    let ask = |n: usize| {
        server.post(
            "/chat/stream",
            json!({ "message": format!("q{n}"), "session_id": format!("s{n}") }),
        )
    };
    let mut running = Vec::new();
    for n in 0..4 {
        running.push(Frames::of(ask(n).await));
    }
    let fifth = Frames::of(ask(4).await).rest().await;
    let place = fifth
        .iter()
        .find(|f| f["id"] == "queue")
        .expect("a frame tells the place");
    assert_eq!(place["data"]["queued"]["position"], 1);
    assert!(!told(&fifth).0.is_empty());
    for stream in running {
        assert!(!told(&stream.rest().await).0.is_empty());
    }
    server
        .until("all slots are free", async |s| s.idle_slots().await == 4)
        .await;
}

#[tokio::test]
async fn the_one_too_many_is_refused_before_the_head() {
    let sets = [SLOW.as_slice(), &["engine.slots=1", "engine.queue=0"]].concat();
    let server = Server::start(&sets).await;
    let first = server
        .post("/chat/stream", json!({ "message": "a", "session_id": "a" }))
        .await;
    let second = server
        .post("/chat/stream", json!({ "message": "b", "session_id": "b" }))
        .await;
    assert_eq!(second.status(), 429);
    assert!(second.headers().contains_key("retry-after"));
    assert!(
        told(&Frames::of(first).rest().await).1["tokens"]
            .as_u64()
            .unwrap()
            > 3
    );
    server.chat("c", "c").await;
}

#[tokio::test]
async fn who_leaves_frees_the_slot_and_harms_nobody() {
    let sets = [SLOW.as_slice(), &["engine.script.token=200ms"]].concat();
    let server = Server::start(&sets).await;
    let ask = |session: &'static str| {
        server.post(
            "/chat/stream",
            json!({ "message": session, "session_id": session }),
        )
    };
    let stays = Frames::of(ask("stays").await);
    let mut leaves = Frames::of(ask("leaves").await);
    while !leaves.next().await.unwrap().contains("text-delta") {}
    server
        .until("both run", async |s| s.idle_slots().await == 2)
        .await;
    drop(leaves);
    server
        .until("the slot is free", async |s| s.idle_slots().await == 3)
        .await;
    assert!(told(&stays.rest().await).0.ends_with("everyone."));
    let gone = server
        .client
        .get(format!("{}/sessions/leaves", server.base))
        .send()
        .await
        .unwrap();
    assert_eq!(
        gone.status(),
        404,
        "an answer that nobody took is not remembered"
    );
}

#[tokio::test]
async fn identical_questions_share_one_run() {
    let server = Server::start(&SLOW).await;
    let ask = |n: usize| {
        server.post(
            "/chat/stream",
            json!({ "message": "same", "session_id": format!("s{n}") }),
        )
    };
    let streams = futures::future::join_all(
        (0..8).map(async |n| told(&Frames::of(ask(n).await).rest().await)),
    )
    .await;
    assert!(streams.iter().all(|(text, _)| *text == streams[0].0));
    let shared = streams
        .iter()
        .filter(|(_, summary)| summary["coalesced"] == true)
        .count();
    assert_eq!(shared, 7, "{streams:?}");
}

#[tokio::test]
async fn a_shutdown_lets_running_answers_end() {
    let mut server = Server::start(&SLOW).await;
    let body = json!({ "message": "a", "session_id": "a" });
    let mut stream = Frames::of(server.post("/chat/stream", body).await);
    while !stream.next().await.unwrap().contains("text-delta") {}
    server.terminate();
    let frames = stream.rest().await;
    assert_eq!(frames.last().unwrap()["type"], "finish");
    assert_eq!(server.ended().await, 0, "{}", server.log());
}

/// Words enough for ten minutes.
fn endless() -> [String; 2] {
    let text = "word ".repeat(12_000);
    [
        format!("engine.script.text={text}"),
        "engine.max_tokens=1500".into(),
    ]
}

/// Whoever is being answered when the drain runs out is told so, in the words of the route.
#[tokio::test]
async fn answers_that_outlast_the_drain_end_with_an_error_of_their_own() {
    let [text, most] = endless();
    let sets = [SLOW.as_slice(), &["server.drain=1s", &text, &most]].concat();
    let mut server = Server::start(&sets).await;
    let ask = |route: &'static str, body: Value| {
        let url = format!("{}{route}", server.base);
        server.client.post(url).json(&body).send()
    };
    let ui = ask("/chat/stream", json!({ "message": "a", "session_id": "a" }));
    let mut ui = Frames::of(ui.await.unwrap());
    while !ui.next().await.unwrap().contains("text-delta") {}
    let messages = json!([{ "role": "user", "content": "b" }]);
    let body = json!({ "messages": messages, "stream": true });
    let mut chunks = Frames::of(ask("/v1/chat/completions", body).await.unwrap());
    while !chunks.next().await.unwrap().contains("word") {}
    let whole = tokio::spawn(ask("/chat", json!({ "message": "c", "session_id": "c" })));
    let other = json!({ "messages": [{ "role": "user", "content": "d" }] });
    let other = tokio::spawn(ask("/v1/chat/completions", other));
    server
        .until("all four run", async |s| s.idle_slots().await == 0)
        .await;
    let told = Instant::now();
    server.terminate();
    let words = "the server is shutting down and could not finish this answer";
    let (ui, chunks) = tokio::join!(ui.rest(), chunks.rest());
    let last = ui.last().unwrap();
    assert_eq!(
        (&last["type"], &last["errorText"]),
        (&json!("error"), &json!(words))
    );
    let error = &chunks.last().unwrap()["error"];
    assert_eq!(
        (&error["message"], &error["code"]),
        (&json!(words), &json!("unavailable"))
    );
    for refused in [whole, other] {
        let refused = refused.await.unwrap().unwrap();
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
        let error: Value = refused.json().await.unwrap();
        assert_eq!(error["error"]["message"], words);
    }
    assert_eq!(server.ended().await, 0, "{}", server.log());
    let took = told.elapsed();
    let expected = Duration::from_millis(900)..Duration::from_secs(10);
    assert!(expected.contains(&took), "it took {took:?}");
}

/// Newcomers are sent elsewhere, the load balancer is told, and whoever watches still can.
#[tokio::test]
async fn while_it_drains_newcomers_are_refused_and_the_admin_may_watch() {
    let [text, _] = endless();
    let sets = [
        SLOW.as_slice(),
        &["engine.script.token=50ms", &text, "engine.max_tokens=120"],
    ]
    .concat();
    let mut server = Server::start(&sets).await;
    // A connection that was opened ahead and never used holds nothing up.
    let address = server.base.trim_start_matches("http://");
    let _unused = std::net::TcpStream::connect(address).unwrap();
    let body = json!({ "message": "a", "session_id": "a" });
    let mut stream = Frames::of(server.post("/chat/stream", body).await);
    while !stream.next().await.unwrap().contains("text-delta") {}
    server.terminate();
    server
        .until("it drains", async |s| {
            let ready = s.client.get(format!("{}/ready", s.base)).send().await;
            ready.unwrap().status() == 503
        })
        .await;
    let close = |r: &reqwest::Response| r.headers()["connection"] == "close";
    for (route, body) in [
        ("/chat", json!({ "message": "b" })),
        ("/chat/stream", json!({ "message": "b" })),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "b" }] }),
        ),
    ] {
        let refused = server.post(route, body).await;
        assert_eq!(refused.status(), 503, "{route}");
        assert!(refused.headers().contains_key("retry-after"), "{route}");
        assert!(close(&refused), "{route}");
        let error: Value = refused.json().await.unwrap();
        assert_eq!(error["error"]["code"], "unavailable", "{route}");
    }
    let get = async |route: &str| {
        let url = format!("{}{route}", server.base);
        server.client.get(url).send().await.unwrap()
    };
    let models = get("/v1/models").await;
    assert_eq!(models.status(), 503);
    assert!(close(&models) && models.headers().contains_key("retry-after"));
    let health = get("/health").await;
    assert!(
        health.status() == 200 && close(&health),
        "it is still alive"
    );
    assert_eq!(server.idle_slots().await, 3, "the answer runs on");
    let frames = stream.rest().await;
    assert_eq!(frames.last().unwrap()["type"], "finish");
    assert_eq!(server.ended().await, 0, "{}", server.log());
    assert!(!server.log().contains("cut off"), "{}", server.log());
}
