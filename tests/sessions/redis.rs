//! The way to Redis: how it ends where the server is slow, down or back.

use std::time::{Duration, Instant};

use stent::redis::{Address, Redis, Trouble, cmd};

use crate::support::redis::RedisServer;

const TIMEOUT: Duration = Duration::from_millis(500);

fn open(url: &str) -> Redis {
    let address: Address = url.parse().unwrap();
    Redis::open(&address, TIMEOUT).unwrap()
}

async fn echo(redis: &Redis) -> Result<String, Trouble> {
    redis
        .run(async |mut connection| {
            cmd("ECHO")
                .arg("hello")
                .query_async::<String>(&mut connection)
                .await
        })
        .await
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_killed_server_costs_little_and_is_used_again_when_it_is_back() {
    let mut server = RedisServer::start();
    let redis = open(&server.url());
    assert_eq!(echo(&redis).await.unwrap(), "hello");
    assert!(redis.is_healthy() && redis.trouble().is_none());
    server.kill();
    until("it counts as down", async || {
        echo(&redis).await == Err(Trouble::Down)
    })
    .await;
    let sentence = redis.trouble().unwrap();
    assert!(
        sentence.starts_with("Redis at redis://127.0.0.1:"),
        "{sentence}"
    );
    let counts = redis.counts();
    assert!(counts.failures >= 3 && counts.skipped >= 1, "{counts:?}");
    assert!(counts.uses >= 1 && !counts.waited.is_zero(), "{counts:?}");
    server.restart();
    until("it is healthy again", async || redis.is_healthy()).await;
    until("it answers", async || echo(&redis).await.is_ok()).await;
    assert_eq!(redis.trouble(), None);
}

#[tokio::test]
async fn a_paused_server_is_not_asked_for_long() {
    let server = RedisServer::start();
    let redis = open(&server.url()).with_timeout(Duration::from_millis(50));
    until("it answers", async || echo(&redis).await.is_ok()).await;
    server.pause();
    assert_eq!(echo(&redis).await, Err(Trouble::Slow));
    until("it counts as down", async || {
        echo(&redis).await == Err(Trouble::Down)
    })
    .await;
    // Nobody waits any more: a thousand refusals cost less than a single timeout would.
    let (start, mut asked) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(40) && asked < 1000 {
        assert_eq!(echo(&redis).await, Err(Trouble::Down));
        asked += 1;
    }
    assert!(asked > 10, "{asked}");
    server.resume();
    until("it is healthy again", async || echo(&redis).await.is_ok()).await;
}

#[tokio::test]
async fn what_was_down_at_the_start_is_used_when_it_comes() {
    let mut server = RedisServer::start();
    server.kill();
    let redis = open(&server.url());
    until("it counts as down", async || !redis.is_healthy()).await;
    server.restart();
    until("it answers", async || echo(&redis).await.is_ok()).await;
}

#[tokio::test]
async fn an_error_that_the_server_answers_is_told_and_does_not_make_it_down() {
    let server = RedisServer::start();
    let redis = open(&server.url());
    server.ask(&["set", "text", "x"]);
    for _ in 0..5 {
        let pushed = redis
            .run(async |mut c| {
                cmd("RPUSH")
                    .arg("text")
                    .arg(1)
                    .query_async::<()>(&mut c)
                    .await
            })
            .await;
        assert_eq!(pushed, Err(Trouble::Refused("WRONGTYPE")));
    }
    assert!(redis.is_healthy());
    assert_eq!(redis.counts().failures, 5);
}

#[tokio::test]
async fn a_wrong_password_is_told_as_such() {
    let server = RedisServer::start();
    server.ask(&["config", "set", "requirepass", "right"]);
    let url = server.url().replace("redis://", "redis://:wrong@");
    let redis = open(&url);
    until("it counts as down", async || !redis.is_healthy()).await;
    let sentence = redis.trouble().unwrap();
    assert!(sentence.contains("authentication failed"), "{sentence}");
    assert!(!sentence.contains("wrong"), "{sentence}");
}
