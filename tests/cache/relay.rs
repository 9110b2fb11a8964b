//! The lease and the stream of a run that hosts share, without gateways around them.

use std::time::Duration;

use stent::redis::Redis;
use stent::relay::{Boarding, End, Lease, Piece, Read, Reader, Relay, Standing};
use stent::seal::Keys;
use stent::types::Finish;

use crate::support::redis::RedisServer;

const RUN: [u8; 32] = [7; 32];

fn relay(redis: &RedisServer, keys: Keys) -> Relay {
    let address = redis.url().parse().unwrap();
    // A busy machine is no trouble of Redis.
    Relay::new(Redis::open(&address, Duration::from_secs(1)).unwrap(), keys)
}

async fn lead(relay: &Relay, run: &[u8; 32]) -> Lease {
    match relay.board(run).await.unwrap() {
        Boarding::Lead(lease) => lease,
        Boarding::Follow(_) => panic!("somebody leads already"),
    }
}

async fn follow(relay: &Relay, run: &[u8; 32]) -> Reader {
    match relay.board(run).await.unwrap() {
        Boarding::Follow(reader) => reader,
        Boarding::Lead(_) => panic!("nobody leads"),
    }
}

fn text(text: &str) -> Piece {
    Piece::Text {
        text: text.into(),
        tokens: vec![1, -2],
    }
}

fn end() -> Piece {
    Piece::Finished(End {
        finish: Finish::Stop,
        prompt_tokens: 3,
        cached_tokens: 1,
        output_tokens: 2,
        queued: Duration::from_millis(1),
        prefill: Duration::from_millis(2),
        decode: Duration::from_millis(3),
    })
}

/// The next pieces, at least one.
async fn news(reader: &mut Reader) -> Result<Vec<Piece>, &'static str> {
    loop {
        match reader.read().await? {
            Read::Pieces(pieces) if pieces.is_empty() => {}
            Read::Pieces(pieces) => return Ok(pieces),
            Read::Lost => return Err("lost"),
        }
    }
}

#[tokio::test]
async fn what_the_first_one_says_is_read_in_order_and_its_end_frees_the_run() {
    for keys in ["", &format!("a:{}", "11".repeat(32))] {
        let keys = match keys {
            "" => Keys::none(),
            keys => Keys::parse(keys).unwrap(),
        };
        let redis = RedisServer::start();
        let (one, two) = (relay(&redis, keys.clone()), relay(&redis, keys));
        let mut lease = lead(&one, &RUN).await;
        lease.say(&[text("a")]).await.unwrap();
        let mut reader = follow(&two, &RUN).await;
        assert_eq!(news(&mut reader).await.unwrap(), [text("a")]);
        assert_eq!(lease.renew().await, Ok(Standing::Read(1)));
        assert_eq!(lease.leave_alone().await, Ok(false), "one reads");
        // Another question is another run.
        drop(lead(&two, &[8; 32]).await);
        lease.say(&[text("b"), text("c"), end()]).await.unwrap();
        let mut rest = Vec::new();
        while rest.last() != Some(&end()) {
            rest.extend(news(&mut reader).await.unwrap());
        }
        assert_eq!(rest, [text("b"), text("c"), end()]);
        reader.leave().await;
        // Nobody computes it any more.
        let mut again = lead(&two, &RUN).await;
        assert_eq!(again.leave_alone().await, Ok(true));
        for name in redis.ask(&["keys", "*"]).lines() {
            let left: i64 = redis.ask(&["pttl", name]).parse().unwrap();
            assert!((1..=30_000).contains(&left) || left == -2, "{name} {left}");
        }
    }
}

#[tokio::test]
async fn a_lease_that_is_given_back_or_runs_out_is_seen_by_who_reads() {
    let redis = RedisServer::start();
    let relay = relay(&redis, Keys::none());
    let mut lease = lead(&relay, &RUN).await;
    lease.say(&[text("a")]).await.unwrap();
    let mut reader = follow(&relay, &RUN).await;
    drop(lease);
    assert_eq!(news(&mut reader).await.unwrap(), [text("a")]);
    assert_eq!(news(&mut reader).await, Err("lost"));
    reader.leave().await;

    let mut lease = lead(&relay, &RUN).await;
    redis.ask(&["del", &redis.ask(&["keys", "stent:run:*:lease"])]);
    assert_eq!(lease.renew().await, Ok(Standing::Lost));
    assert_eq!(lease.say(&[text("b")]).await, Err("lost"));
    // Whoever has it now keeps it.
    let mut other = lead(&relay, &RUN).await;
    drop(lease);
    assert_eq!(other.renew().await, Ok(Standing::Read(0)));
}

#[tokio::test]
async fn what_is_forged_or_missing_ends_the_reading() {
    let keys = Keys::parse(&format!("a:{}", "11".repeat(32))).unwrap();
    for (at, piece, why) in [("1", "\\x01\\x00", "unreadable"), ("2", "x", "gap")] {
        let redis = RedisServer::start();
        let relay = relay(&redis, keys.clone());
        let mut lease = lead(&relay, &RUN).await;
        lease.say(&[text("a")]).await.unwrap();
        let said = redis.ask(&["keys", "stent:run:*:said:*"]);
        redis.ask(&["xadd", &said, "*", "at", at, "piece", piece]);
        let mut reader = follow(&relay, &RUN).await;
        assert_eq!(news(&mut reader).await, Err(why), "{at}");
    }
}

#[tokio::test]
async fn what_is_said_twice_is_read_once() {
    let redis = RedisServer::start();
    let relay = relay(&redis, Keys::none());
    let mut lease = lead(&relay, &RUN).await;
    lease.say(&[text("a")]).await.unwrap();
    let said = redis.ask(&["keys", "stent:run:*:said:*"]);
    redis.ask(&["xadd", &said, "*", "at", "0", "piece", "again"]);
    lease.say(&[text("b")]).await.unwrap();
    let mut reader = follow(&relay, &RUN).await;
    assert_eq!(news(&mut reader).await.unwrap(), [text("a"), text("b")]);
}

#[tokio::test]
async fn a_run_has_a_largest_size_and_a_host_reads_so_many_at_most() {
    let redis = RedisServer::start();
    let relay = relay(&redis, Keys::none());
    let mut lease = lead(&relay, &RUN).await;
    let long = text(&"x".repeat(1 << 20));
    lease.say(std::slice::from_ref(&long)).await.unwrap();
    assert_eq!(lease.say(&[long]).await, Err("long"));
    let mut readers = Vec::new();
    while readers.len() < 64 {
        readers.push(follow(&relay, &RUN).await);
    }
    assert_eq!(relay.board(&RUN).await.err(), Some("full"));
    readers.pop();
    readers.push(follow(&relay, &RUN).await);
}
