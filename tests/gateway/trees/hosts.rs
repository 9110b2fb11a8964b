//! Several hosts on one Redis: whose run an answer was read from, and what a trace shows when the leader
//! or Redis is lost.

use serde_json::{Value, json};

use super::expected::*;
use super::traced::*;
use crate::support::otlp::Received;
use crate::support::redis::RedisServer;
use crate::support::server::{Frames, Server, told};

const TEXT: &str = "one two three four five six seven eight nine ten eleven twelve thirteen \
    fourteen fifteen sixteen seventeen eighteen nineteen twenty";
const ADMIT: &str = r#"  policy cache.admit INTERNAL stent.policy.generation=1 stent.policy.hook="cache" stent.policy.name="cache-exact" stent.policy.outcome="ok"
"#;
const FIRST: &str = "  ! first_byte\n";

fn begins(line: &str, name: &str) -> bool {
    line.trim_start().starts_with(name)
}

/// The tree as it is where answers are kept on Redis.
fn kept(tree: &str) -> String {
    let bytes = TEXT.len();
    let store =
        format!("  cache.store INTERNAL stent.cache.bytes={bytes} stent.cache.store=\"redis\"\n");
    let mut drawn = String::new();
    for line in tree.lines() {
        if begins(line, "policy cache.decide") {
            drawn += ADMIT;
        }
        drawn += &format!("{line}\n");
        if begins(line, "cache.lookup") {
            drawn += &store;
        }
    }
    drawn.replace(
        r#"result="bypass" stent.cache.store="off""#,
        r#"result="miss" stent.cache.store="redis""#,
    )
}

/// Two hosts that share answers and runs, with a word each `pace`.
async fn two(redis: &RedisServer, pace: &str) -> (Traced, Traced) {
    let own = [
        format!("cache.store={}", redis.url()),
        format!("engine.script.text={TEXT}"),
        format!("engine.script.token={pace}"),
        // A busy machine is no trouble of Redis.
        "cache.timeout=1s".into(),
    ];
    let own = own.iter().map(String::as_str).chain(SHARED);
    let sets: Vec<_> = own.collect();
    let a = Traced::start(&sets).await;
    let b = a.beside(&sets).await;
    (a, b)
}

fn stage<'a>(spans: &'a [Received], name: &str) -> &'a Received {
    spans.iter().find(|span| span.name == name).unwrap()
}

async fn coalesced(frames: Frames) -> Value {
    told(&frames.rest().await).1["coalesced"].clone()
}

#[tokio::test]
async fn who_reads_another_hosts_run_links_to_it() {
    let redis = RedisServer::start();
    let (a, b) = two(&redis, "100ms").await;
    let (led, leads) = a.begun("same", "one").await;
    let (followed, follows) = b.begun("same", "two").await;
    let told = tokio::join!(coalesced(leads), coalesced(follows));
    assert_eq!(told, (json!(false), json!(true)));
    let leader = a.is(&led, &kept(LEADER)).await;
    ends_last(&leader);
    let follower = b.is(&followed, &kept(COALESCED)).await;
    ends_last(&follower);
    let wait = stage(&follower, "coalesce.wait");
    let chat = stage(&leader, "chat scripted");
    assert_eq!(wait.links, std::slice::from_ref(&chat.id));
}

/// The host that computes dies: its reader computes, below its own request, and still shows whom it
/// waited for.
#[tokio::test]
async fn a_leader_that_is_lost() {
    let redis = RedisServer::start();
    let (mut a, b) = two(&redis, "200ms").await;
    let (_, leads) = a.begun("same", "one").await;
    let (followed, follows) = b.begun("same", "two").await;
    a.server.kill();
    drop(leads);
    assert_eq!(coalesced(follows).await, true);
    let run = |line: &&str| line.starts_with("    ") || begins(line, "chat scripted");
    let own = LEADER.lines().filter(run);
    let own: String = own.map(|line| format!("{line}\n")).collect();
    let drawn = COALESCED
        .replace(
            FIRST,
            &format!(
                "{FIRST}  ! store_failure error.type=\"lost\"\n  admission INTERNAL stent.queue.depth=0 stent.queue.position=0\n"
            ),
        )
        .replace("  coalesce.wait", &format!("{own}  coalesce.wait"))
        .replace("  session.append", "  queue.wait INTERNAL\n  session.append");
    ends_last(&b.is(&followed, &kept(&drawn)).await);
}

/// A host whose sessions are on Redis.
async fn remembering(redis: &RedisServer, on_failure: &str) -> Traced {
    let (store, on_failure) = (
        format!("sessions.store={}", redis.url()),
        format!("sessions.on_store_failure={on_failure}"),
    );
    let text = format!("engine.script.text={TEXT}");
    Traced::start(&[
        &store,
        &on_failure,
        &text,
        "sessions.timeout=1s",
        "engine.script.token=300ms",
        "cache.store=off",
    ])
    .await
}

async fn until_ready(server: &Server, what: &str, holds: impl Fn(u16, &Value) -> bool) {
    let looks = async |s: &Server| {
        let asked = s.client.get(format!("{}/ready", s.base)).send().await;
        let Ok(told) = asked else { return false };
        let status = told.status().as_u16();
        holds(status, &told.json().await.unwrap())
    };
    server.until(what, looks).await;
}

async fn down(traced: &Traced) {
    until_ready(&traced.server, "Redis is down", |status, told| {
        status == 503 || told["degraded"]["sessions"].is_string()
    })
    .await;
}

fn places(spans: &[Received]) -> [&str; 2] {
    ["session.load", "session.append"].map(|name| stage(spans, name).told("stent.session.store"))
}

/// This host remembers by itself, and the request tells why.
#[tokio::test]
async fn a_session_store_that_fails_before_and_during_an_answer() {
    let mut redis = RedisServer::start();
    let traced = remembering(&redis, "local").await;
    let failure = "  ! store_failure error.type=\"down\"\n";

    let (trace, frames) = traced.begun("hello", "one").await;
    redis.kill();
    down(&traced).await;
    frames.rest().await;
    let spans = traced
        .is(&trace, &LEADER.replace(FIRST, &format!("{FIRST}{failure}")))
        .await;
    ends_last(&spans);
    assert_eq!(places(&spans), ["redis", "local"]);

    let (trace, _) = answer(traced.ask("hello", "two").await).await;
    let spans = traced
        .is(&trace, &LEADER.replace(FIRST, &format!("{failure}{FIRST}")))
        .await;
    ends_last(&spans);
    assert_eq!(places(&spans), ["local", "local"]);
}

#[tokio::test]
async fn a_session_store_that_fails_and_is_not_done_without() {
    let mut redis = RedisServer::start();
    let traced = remembering(&redis, "refuse").await;
    redis.kill();
    down(&traced).await;
    let refused = traced.ask("hello", "one").await;
    assert_eq!(refused.status(), 503);
    let drawn = r#"POST /chat/stream SERVER FAILED error.type="session_store" http.response.status_code=503 http.route="/chat/stream" stent.outcome="error" stent.policy.generation=1
  ! store_failure error.type="down"
  policy layout INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  session.load INTERNAL FAILED error.type="down"
"#;
    ends_last(&traced.is(&trace_of(&refused), drawn).await);
}
