//! Two gateways on one Redis: sessions, answers and runs.

use serde_json::{Value, json};

use crate::support::redis::RedisServer;
use crate::support::server::{Frames, Server, told};

/// A gateway that shares everything; Redis may be slow on a busy machine.
pub async fn host(redis: &RedisServer, more: &[&str]) -> Server {
    host_with(redis, more, &[]).await
}

pub async fn host_with(redis: &RedisServer, more: &[&str], vars: &[(&str, &str)]) -> Server {
    let (sessions, cache) = (
        format!("sessions.store={}", redis.url()),
        format!("cache.store={}", redis.url()),
    );
    let own = [
        "engine.kind=scripted",
        "policies.cache.scope=tenant",
        "policies.cache.config.scope=tenant",
        "sessions.timeout=1s",
        "cache.timeout=1s",
        &sessions,
        &cache,
    ];
    Server::start_with(&[&own[..], more].concat(), vars).await
}

pub async fn stream(server: &Server, message: &str, session: &str) -> Frames {
    let body = json!({ "message": message, "session_id": session });
    let response = server.post("/chat/stream", body).await;
    assert_eq!(response.status(), 200, "{}", server.log());
    Frames::of(response)
}

pub async fn ready(server: &Server) -> (u16, Value) {
    let asked = server.client.get(format!("{}/ready", server.base));
    let answer = asked.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// A counter of uses of the shared server.
pub async fn counted(server: &Server, operation: &str, result: &str) -> u64 {
    let name =
        format!("stent_shared_cache_total{{operation=\"{operation}\",result=\"{result}\"}} ");
    let metrics = server.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
}

#[tokio::test]
async fn a_conversation_hops_and_takes_its_answers_along() {
    let redis = RedisServer::start();
    let (a, b) = tokio::join!(host(&redis, &[]), host(&redis, &[]));
    let (hosts, questions) = (
        [&a, &b],
        ["What is gout?", "Its causes?", "And then?", "Bye"],
    );
    for session in ["first", "second"] {
        for (turn, question) in questions.iter().enumerate() {
            // The second conversation is held the other way round.
            let host = hosts[(turn + usize::from(session == "second")) % 2];
            let frames = stream(host, question, session).await.rest().await;
            let (text, summary) = told(&frames);
            assert!(text.starts_with("This is the scripted engine"), "{text}");
            assert_eq!(summary["cached"], session == "second", "{session} {turn}");
        }
        for host in hosts {
            let messages = host.session(session).await["messages"].clone();
            assert_eq!(messages.as_array().unwrap().len(), 8, "{session}");
        }
    }
    assert_eq!(counted(&a, "lookup", "ok").await, 4);
    assert!(a.gauge("stent_cache_entries").await >= 2);
}

/// All that is on the server, as text.
fn dump(redis: &RedisServer) -> String {
    let mut all = String::new();
    for name in redis.ask(&["keys", "*"]).lines() {
        let read: &[&str] = match redis.ask(&["type", name]).as_str() {
            "string" => &["--raw", "get", name],
            "hash" => &["--raw", "hgetall", name],
            "zset" => &["--raw", "zrange", name, "0", "-1"],
            "stream" => &["--raw", "xrange", name, "-", "+"],
            other => panic!("{name} is a {other}"),
        };
        all += &format!("{name} {}\n", redis.ask(read));
    }
    all
}

#[tokio::test]
async fn nothing_on_the_server_lives_for_ever_and_with_a_key_nothing_can_be_read() {
    let key = format!("k:{}", "5a".repeat(32));
    for sealed in [false, true] {
        let redis = RedisServer::start();
        let encrypt = format!("sessions.encrypt={sealed}");
        let sets = ["engine.script.token=30ms", encrypt.as_str()];
        let vars: &[(&str, &str)] = match sealed {
            true => &[("STENT_SESSION_KEYS", &key)],
            false => &[],
        };
        let (a, b) = tokio::join!(
            host_with(&redis, &sets, vars),
            host_with(&redis, &sets, vars)
        );
        let mut leads = stream(&a, "canary question", "a").await;
        // By then the words before are on the server.
        while !leads.next().await.unwrap().contains("same") {}
        let follows = stream(&b, "canary question", "b").await;
        let during = dump(&redis);
        for frames in [leads.rest().await, follows.rest().await] {
            assert!(told(&frames).0.ends_with("everyone."), "{frames:?}");
        }
        for (when, all) in [("during", during), ("after", dump(&redis))] {
            assert!(all.contains("stent:run:"), "{all}");
            assert_eq!(all.contains("This"), !sealed, "{when}: {all}");
            assert!(!(sealed && all.contains("canary")), "{when}: {all}");
        }
        for name in redis.ask(&["keys", "*"]).lines() {
            let left: i64 = redis.ask(&["pttl", name]).parse().unwrap();
            assert!(left > 0 || left == -2, "{name} lives {left} ms");
        }
    }
}
