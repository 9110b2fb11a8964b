//! What both stores of answers promise.

use std::time::{Duration, Instant};

use stent::cache::{Audience, Basis, Cache, Cached, Draw, Identity, Key, Settings, Store};
use stent::seal::Keys;
use stent::types::{Finish, Sampling, TenantId};

use crate::support::redis::RedisServer;

const MINUTE: Duration = Duration::from_secs(60);

fn key(question: &str) -> Key {
    let (tenant, parts) = (TenantId::default(), [question.to_owned()]);
    let sampling = Sampling::greedy();
    Identity {
        audience: Audience::Tenant(&tenant),
        model: "m",
        name: "tiny",
        context: 512,
        low_water: Some(75),
        policies: "p",
        attributes: &[],
        streaming: true,
        sampling: &sampling,
        draw: Draw::Greedy,
        max_tokens: 5,
        stop: &[],
        basis: Basis::Parts(&parts),
    }
    .key()
}

fn answer(text: &str) -> Cached {
    Cached {
        text: text.into(),
        tokens: [7, -1].into(),
        finish: Finish::Stop,
        prompt_tokens: 3,
        output_tokens: 1,
        dropped: 4,
    }
}

/// A cache, and the server that it lies on.
struct Place {
    cache: Cache,
    redis: Option<RedisServer>,
}

fn open(redis: &RedisServer, max_bytes: u64, keys: Keys) -> Cache {
    let settings = Settings {
        store: Store::Redis(redis.url().parse().unwrap()),
        max_bytes,
        // A busy machine is no trouble of Redis.
        timeout: Duration::from_secs(1),
    };
    Cache::open(&settings, keys).unwrap()
}

fn places(max_bytes: u64) -> [Place; 2] {
    let settings = Settings {
        max_bytes,
        ..Settings::default()
    };
    let redis = RedisServer::start();
    [
        Place {
            cache: Cache::open(&settings, Keys::none()).unwrap(),
            redis: None,
        },
        Place {
            cache: open(&redis, max_bytes, Keys::none()),
            redis: Some(redis),
        },
    ]
}

async fn found(cache: &Cache, key: &Key) -> Option<String> {
    let found = cache.lookup(key, Duration::MAX).await.unwrap();
    found.map(|answer| answer.text.to_string())
}

#[tokio::test]
async fn an_answer_is_found_whole_until_it_is_too_old() {
    for Place { cache, .. } in &places(1 << 20) {
        let (one, two) = (key("one"), key("two"));
        assert_eq!(found(cache, &one).await, None);
        cache.store(one, answer("yes"), MINUTE).await.unwrap();
        let whole = cache.lookup(&one, Duration::MAX).await.unwrap();
        assert_eq!(whole, Some(answer("yes")), "{}", cache.store_name());
        assert_eq!(found(cache, &two).await, None, "another question");
        cache.store(one, answer("no"), MINUTE).await.unwrap();
        assert_eq!(found(cache, &one).await.as_deref(), Some("no"));
        assert_eq!(cache.entries(), 1, "{}", cache.store_name());
        tokio::time::sleep(Duration::from_millis(20)).await;
        let young = cache.lookup(&one, Duration::from_millis(5)).await;
        assert_eq!(young, Ok(None), "older than the policy accepts");
        let short = Duration::from_millis(300);
        cache.store(two, answer("soon gone"), short).await.unwrap();
        let start = Instant::now();
        while found(cache, &two).await.is_some() {
            assert!(start.elapsed() < MINUTE, "its time is over");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cache
            .store(two, answer("never"), Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(found(cache, &two).await, None);
        // A policy may say any number.
        cache
            .store(two, answer("long"), Duration::MAX)
            .await
            .unwrap();
        assert_eq!(found(cache, &two).await.as_deref(), Some("long"));
    }
}

#[tokio::test]
async fn the_least_used_makes_room_and_what_is_too_large_is_not_kept() {
    for Place { cache, .. } in &places(10_000) {
        let name = cache.store_name();
        for n in 0..4 {
            let text = "x".repeat(1_000);
            cache
                .store(key(&n.to_string()), answer(&text), MINUTE)
                .await
                .unwrap();
        }
        for n in 0..200 {
            // The first one is asked for again and again.
            assert!(found(cache, &key("0")).await.is_some(), "{name} {n}");
            tokio::time::sleep(Duration::from_millis(2)).await;
            let text = "y".repeat(500);
            cache
                .store(key(&format!("new{n}")), answer(&text), MINUTE)
                .await
                .unwrap();
            assert!(cache.bytes() <= 10_000, "{name} {}", cache.bytes());
        }
        // moka keeps what was asked for more often; Redis drops what was not asked for longest.
        if name == "redis" {
            assert_eq!(found(cache, &key("1")).await, None, "{name}");
        }
        let before = cache.entries();
        let large = "z".repeat(20_000);
        cache
            .store(key("large"), answer(&large), MINUTE)
            .await
            .unwrap();
        assert_eq!(found(cache, &key("large")).await, None, "{name}");
        assert!(before > 3 && cache.entries() == before, "{name}");
    }
}

/// Texts of all answers that lie on the server, and the server's own count of its keys.
fn measured(redis: &RedisServer) -> u64 {
    let script = "local sum = 0 for _, name in ipairs(redis.call('KEYS', 'stent:{answers}:*')) do \
                  if redis.call('TYPE', name).ok == 'string' then \
                  sum = sum + redis.call('STRLEN', name) end end return sum";
    redis.ask(&["eval", script, "0"]).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_bytes_held_stay_under_the_limit_while_hosts_write() {
    const LIMIT: u64 = 100_000;
    let redis = RedisServer::start();
    let hosts = [0, 1, 2, 3].map(|_| open(&redis, LIMIT, Keys::none()));
    let writers = hosts.into_iter().enumerate().map(|(host, cache)| {
        tokio::spawn(async move {
            for n in 0..300 {
                let text = "x".repeat(n * 7 % 2_000);
                let key = key(&format!("{host} {n}"));
                cache.store(key, answer(&text), MINUTE).await.unwrap();
                assert!(cache.bytes() <= LIMIT, "{} bytes", cache.bytes());
            }
            cache
        })
    });
    let writers: Vec<_> = writers.collect();
    while writers.iter().any(|writer| !writer.is_finished()) {
        let held = measured(&redis);
        assert!(held <= LIMIT, "{held} bytes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for writer in writers {
        let cache = writer.await.unwrap();
        assert!(cache.bytes() > LIMIT / 2, "{} bytes", cache.bytes());
    }
    // What is not accounted for, or would stay for ever, is not there.
    let names = redis.ask(&["keys", "stent:*"]);
    for name in names.lines() {
        let left: i64 = redis.ask(&["pttl", name]).parse().unwrap();
        assert!(left > 0, "{name} lives {left} ms");
    }
    let (answers, indexed) = (
        names.lines().count() - 2,
        redis.ask(&["zcard", "stent:{answers}:by-use"]),
    );
    assert_eq!(answers.to_string(), indexed);
}

/// What an entry is said to take is no less than what Redis needs for it.
#[tokio::test]
async fn an_entrys_size_covers_what_redis_needs() {
    let redis = RedisServer::start();
    let used = || -> u64 {
        let info = redis.ask(&["info", "memory"]);
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        line.unwrap().trim().parse().unwrap()
    };
    let cache = open(&redis, 64 << 20, Keys::none());
    cache
        .store(key("first"), answer("x"), MINUTE)
        .await
        .unwrap();
    let before = (used(), cache.bytes());
    for n in 0..2_000 {
        cache
            .store(key(&n.to_string()), answer("What it says."), MINUTE)
            .await
            .unwrap();
    }
    let (took, said) = (used() - before.0, cache.bytes() - before.1);
    println!("{} bytes an entry, said {}", took / 2_000, said / 2_000);
    assert!(took <= said, "{took} bytes, but {said} are counted");
}

#[tokio::test]
async fn what_leaves_the_process_is_sealed_where_there_is_a_key() {
    let redis = RedisServer::start();
    let keys = |text: &str| Keys::parse(text).unwrap();
    let (a, b) = (
        "a:".to_owned() + &"11".repeat(32),
        "b:".to_owned() + &"22".repeat(32),
    );
    let sealing = open(&redis, 1 << 20, keys(&a));
    sealing
        .store(key("one"), answer("canary"), MINUTE)
        .await
        .unwrap();
    assert_eq!(
        found(&sealing, &key("one")).await.as_deref(),
        Some("canary")
    );
    let raw = |name: &str| redis.ask(&["--raw", "get", name]);
    let names = redis.ask(&["keys", "stent:{answers}:*"]);
    let texts: Vec<_> = names.lines().map(raw).collect();
    assert!(
        texts.iter().all(|text| !text.contains("canary")),
        "{texts:?}"
    );
    // Another key in front: the old one still opens.
    let rotated = open(&redis, 1 << 20, keys(&format!("{b},{a}")));
    assert_eq!(
        found(&rotated, &key("one")).await.as_deref(),
        Some("canary")
    );
    // Without the right key it is no answer, and is replaced by one.
    for other in [
        open(&redis, 1 << 20, keys(&b)),
        open(&redis, 1 << 20, Keys::none()),
    ] {
        let read = other.lookup(&key("one"), Duration::MAX).await;
        assert_eq!(read, Err("unreadable"));
    }
    // What somebody else put there in plain is not believed.
    let plain = open(&redis, 1 << 20, Keys::none());
    plain
        .store(key("two"), answer("forged"), MINUTE)
        .await
        .unwrap();
    let read = sealing.lookup(&key("two"), Duration::MAX).await;
    assert_eq!(read, Err("unreadable"));
    let moved = redis.ask(&[
        "copy",
        names.lines().find(|n| n.len() > 60).unwrap(),
        "stent:x",
    ]);
    assert_eq!(moved, "1");
}

/// The server's own limit is no trouble: a store that is refused is told, and lookups go on.
#[tokio::test]
async fn a_full_server_keeps_nothing_and_answers_on() {
    let redis = RedisServer::with(&["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]);
    let cache = open(&redis, 64 << 20, Keys::none());
    let text = "x".repeat(100_000);
    let mut refused = None;
    for n in 0..100 {
        if let Err(kind) = cache
            .store(key(&n.to_string()), answer(&text), MINUTE)
            .await
        {
            refused = Some(kind);
            break;
        }
    }
    assert_eq!(refused, Some("refused"));
    assert!(found(&cache, &key("0")).await.is_some());
    assert_eq!(cache.trouble(), None);
}

/// The places know their server until here.
impl Drop for Place {
    fn drop(&mut self) {
        drop(self.redis.take());
    }
}
