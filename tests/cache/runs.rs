//! Runs that two gateways share: who asks what is being answered anywhere reads it from its first
//! word.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::hosts::{counted, host, stream};
use crate::support::redis::RedisServer;
use crate::support::server::{Frames, Server, told};

const TEXT: &str = "one two three four five six seven eight nine ten eleven twelve thirteen \
    fourteen fifteen sixteen seventeen eighteen nineteen twenty";

/// Two hosts that say twenty words, one each `pace`.
async fn two(redis: &RedisServer, pace: &str) -> (Server, Server) {
    let (text, token) = (
        format!("engine.script.text={TEXT}"),
        format!("engine.script.token={pace}"),
    );
    let sets = [text.as_str(), token.as_str()];
    tokio::join!(host(redis, &sets), host(redis, &sets))
}

/// A stream that has said its first words.
async fn begun(server: &Server, session: &str) -> (Frames, String) {
    let mut frames = stream(server, "q", session).await;
    loop {
        let frame = frames.next().await.unwrap();
        let frame: Value = serde_json::from_str(&frame).unwrap();
        if let Some(delta) = frame["delta"].as_str() {
            return (frames, delta.to_owned());
        }
    }
}

async fn whole((frames, begun): (Frames, String)) -> (String, Value) {
    let frames = frames.rest().await;
    let (text, summary) = told(&frames);
    let error = frames.iter().find(|frame| frame["type"] == "error");
    assert_eq!(error, None);
    (begun + &text, summary)
}

async fn generated(server: &Server) -> u64 {
    let status = server.admin("/admin/slots").await;
    status["totals"]["generated"].as_u64().unwrap()
}

#[tokio::test]
async fn a_question_that_another_host_answers_is_not_computed_again() {
    let redis = RedisServer::start();
    let (a, b) = two(&redis, "50ms").await;
    let leads = begun(&a, "a").await;
    let (follows, second) = tokio::join!(begun(&b, "b"), begun(&b, "c"));
    assert_eq!(
        follows.1.split(' ').next(),
        Some("one"),
        "from the first word"
    );
    let answers = futures::future::join_all([leads, follows, second].map(whole)).await;
    let coalesced: Vec<_> = answers
        .iter()
        .map(|(_, told)| told["coalesced"].clone())
        .collect();
    assert_eq!(coalesced, [false, true, true]);
    for (text, summary) in &answers {
        assert_eq!(text, TEXT);
        assert_eq!(summary["tokens"], answers[0].1["tokens"]);
    }
    assert_eq!(generated(&b).await, 0);
    assert_eq!(counted(&a, "board", "lead").await, 1);
    assert_eq!(
        counted(&b, "board", "follow").await,
        1,
        "two readers of one host are one"
    );
    assert_eq!(counted(&b, "follow", "told").await, 1);
    // Both hosts remember it, and it is a hit from now on.
    for (server, session) in [(&a, "a"), (&b, "b"), (&b, "c")] {
        let messages = server.session(session).await["messages"].clone();
        assert_eq!(messages[1]["text"], TEXT, "{session}");
    }
    assert_eq!(
        told(&stream(&b, "q", "d").await.rest().await).1["cached"],
        true
    );
}

/// Questions that arrive everywhere at once, before anybody has said a word.
#[tokio::test]
async fn of_many_who_ask_at_once_one_computes() {
    let redis = RedisServer::start();
    let (a, b) = two(&redis, "40ms").await;
    let asking = (0..12).map(|n| {
        let server = if n % 2 == 0 { &a } else { &b };
        async move { whole(begun(server, &format!("s{n}")).await).await }
    });
    for (text, _) in futures::future::join_all(asking).await {
        assert_eq!(text, TEXT);
    }
    // The last drawn token is the end of the text.
    let all = generated(&a).await + generated(&b).await;
    assert!(all <= 22, "{all} tokens");
}

#[tokio::test]
async fn each_leaves_by_itself_and_the_last_one_stops_the_work() {
    let redis = RedisServer::start();
    let (a, b) = two(&redis, "250ms").await;
    let leads = begun(&a, "a").await;
    let follows = begun(&b, "b").await;
    let also = begun(&b, "c").await;
    // A reader elsewhere leaves: nobody else notices.
    drop(also);
    // The one who began leaves: the work goes on for who reads elsewhere.
    drop(leads);
    assert_eq!(whole(follows).await.0, TEXT);
    a.until("the slot is free", async |s| s.idle_slots().await == 4)
        .await;
    assert_eq!(generated(&b).await, 0);
    let before = generated(&a).await;
    redis.ask(&["flushall"]);

    let (leads, follows) = (begun(&a, "d").await, begun(&b, "e").await);
    drop(leads);
    drop(follows);
    let start = Instant::now();
    a.until("the work is stopped", async |s| s.idle_slots().await == 4)
        .await;
    assert!(
        start.elapsed() < Duration::from_millis(3_500),
        "{:?}",
        start.elapsed()
    );
    let wasted = generated(&a).await - before;
    assert!(wasted < 15, "{wasted} tokens");
    assert_eq!(counted(&a, "lead", "left").await, 1);
    // Nothing is left of it to be joined.
    assert_eq!(redis.ask(&["keys", "stent:run:*:lease"]), "");
}

#[tokio::test]
async fn a_host_that_dies_leaves_no_hole_in_what_others_read() {
    let redis = RedisServer::start();
    let (mut a, b) = two(&redis, "200ms").await;
    let leads = begun(&a, "a").await;
    let follows = begun(&b, "b").await;
    let also = begun(&b, "c").await;
    a.kill();
    drop(leads);
    let start = Instant::now();
    for (text, _) in [whole(follows).await, whole(also).await] {
        assert_eq!(text, TEXT);
    }
    println!("whole after {:?}", start.elapsed());
    assert!(generated(&b).await >= 20, "computed here");
    assert_eq!(counted(&b, "follow", "lost").await, 1);
    assert_eq!(b.session("b").await["messages"][1]["text"], TEXT);
}

#[tokio::test]
async fn a_server_that_fails_in_the_middle_leaves_no_hole_either() {
    for trouble in ["killed", "paused", "flushed"] {
        let mut redis = RedisServer::start();
        let text = format!("engine.script.text={TEXT}");
        // Sessions are another matter: they would be refused meanwhile.
        let sets = [
            text.as_str(),
            "engine.script.token=100ms",
            "sessions.store=memory",
            "cache.timeout=200ms",
        ];
        let (a, b) = tokio::join!(host(&redis, &sets), host(&redis, &sets));
        let leads = begun(&a, "a").await;
        let follows = begun(&b, "b").await;
        match trouble {
            "killed" => redis.kill(),
            "paused" => redis.pause(),
            _ => drop(redis.ask(&["flushall"])),
        }
        let (one, two) = tokio::join!(whole(leads), whole(follows));
        assert_eq!((one.0.as_str(), two.0.as_str()), (TEXT, TEXT), "{trouble}");
        assert!(generated(&b).await > 0, "{trouble}");
    }
}

/// What each run differs in is not shared.
#[tokio::test]
async fn another_seed_or_tenant_is_another_run() {
    let redis = RedisServer::start();
    let (a, b) = two(&redis, "30ms").await;
    let ask = async |server: &Server, seed: Value| {
        let body = serde_json::json!({ "message": "q", "seed": seed });
        server.post("/chat/stream", body).await
    };
    for (one, two, shared) in [
        (1.into(), 2.into(), false),
        ("random".into(), "random".into(), false),
        (3.into(), 3.into(), true),
    ] {
        let first = Frames::of(ask(&a, one).await);
        let second = Frames::of(ask(&b, two).await);
        let (first, second) = tokio::join!(first.rest(), second.rest());
        assert_eq!(told(&first).0, TEXT);
        assert_eq!(told(&second).1["coalesced"], shared);
    }
}
