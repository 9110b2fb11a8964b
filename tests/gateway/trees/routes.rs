//! The same traces on the other routes: `/chat`, `/v1/chat/completions` with and without a stream.

use std::sync::atomic::{AtomicU32, Ordering};

use reqwest::{RequestBuilder, Response};
use serde_json::json;
use tokio::task::JoinHandle;

use super::expected::*;
use super::traced::{SHARED, Traced, ends_last, put, slot};
use crate::policy::guest::{Guest, TRAP, words};

#[derive(Clone, Copy, PartialEq)]
struct Door {
    route: &'static str,
    streams: bool,
}

const DOORS: [Door; 3] = [
    Door {
        route: "/chat",
        streams: false,
    },
    Door {
        route: "/v1/chat/completions",
        streams: true,
    },
    Door {
        route: "/v1/chat/completions",
        streams: false,
    },
];

impl Door {
    /// A request whose trace is known before its answer.
    fn ask(self, traced: &Traced, message: &str, session: &str) -> (RequestBuilder, String) {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let trace = format!("{:032x}", COUNT.fetch_add(1, Ordering::Relaxed));
        let body = match self.route {
            "/chat" => json!({ "message": message, "session_id": session }),
            _ => json!({
                "messages": [{ "role": "user", "content": message }],
                "session_id": session, "stream": self.streams, "seed": 7,
            }),
        };
        let url = format!("{}{}", traced.server.base, self.route);
        let request = traced.server.client.post(url).json(&body);
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        (request.header("traceparent", parent), trace)
    }

    /// Asks and reads the answer to its end.
    async fn whole(self, traced: &Traced, message: &str, session: &str) -> (String, u16, String) {
        let (request, trace) = self.ask(traced, message, session);
        let response = request.send().await.unwrap();
        let told = response.headers()["traceresponse"].to_str().unwrap();
        assert!(told.contains(&trace), "{told}");
        let status = response.status().as_u16();
        (trace, status, response.text().await.unwrap())
    }

    fn start(self, traced: &Traced, message: &str, session: &str) -> (Running, String) {
        let (request, trace) = self.ask(traced, message, session);
        (tokio::spawn(request.send()), trace)
    }

    /// The tree that is drawn for `/chat/stream`, as it is here.
    fn tree(self, expected: &str, status: u16) -> String {
        let tree = expected
            .replace("/chat/stream", self.route)
            .replace("status_code=200", &format!("status_code={status}"));
        match self.route {
            "/chat" => tree,
            _ => tree.replace(r#"seed.source="derived""#, r#"seed.source="client""#),
        }
    }

    /// The status of what fails after a stream's head has left.
    fn late(self, status: u16) -> u16 {
        if self.streams { 200 } else { status }
    }

    /// A client that leaves before there is a head gets no status.
    fn left(self, expected: &str) -> String {
        let tree = self.tree(expected, 200);
        match self.streams {
            true => tree,
            false => tree.replace("http.response.status_code=200 ", ""),
        }
    }
}

type Running = JoinHandle<reqwest::Result<Response>>;

async fn leave(running: Running) {
    running.abort();
    // Where the head came already it is the response that is dropped.
    drop(running.await);
}

#[tokio::test]
async fn ok_and_cached() {
    let traced = Traced::start(&SHARED).await;
    for (n, door) in DOORS.into_iter().enumerate() {
        let message = format!("hell{n}");
        let (trace, status, answer) = door.whole(&traced, &message, &format!("one{n}")).await;
        assert_eq!(status, 200, "{answer}");
        let expected = door.tree(LEADER, 200).replace(
            r#"stent.cache.result="bypass" stent.cache.store="off""#,
            r#"stent.cache.result="miss" stent.cache.store="memory""#,
        );
        let stored =
            "  cache.store INTERNAL stent.cache.bytes=64 stent.cache.store=\"memory\"\n  chat";
        let admit = "  policy cache.admit INTERNAL stent.policy.generation=1 stent.policy.hook=\"cache\" stent.policy.name=\"cache-exact\" stent.policy.outcome=\"ok\"\n  policy cache.decide";
        let expected =
            expected
                .replacen("  chat", stored, 1)
                .replacen("  policy cache.decide", admit, 1);
        ends_last(&traced.is(&trace, &expected).await);
        let other = format!("new{n}");
        let (fresh, ..) = door.whole(&traced, "hello", &other).await;
        let (trace, ..) = door
            .whole(&traced, "hello", &format!("{other}-again"))
            .await;
        ends_last(&traced.is(&trace, &door.tree(CACHED, 200)).await);
        assert_ne!(fresh, trace);
    }
}

#[tokio::test]
async fn coalesced() {
    let traced = Traced::start(&["engine.script.token=50ms", "cache.store=off"]).await;
    for (n, door) in DOORS.into_iter().enumerate() {
        let message = format!("same{n}");
        let (leader, led) = door.start(&traced, &message, &format!("lead{n}"));
        slot(&traced, "the leader runs", |s| {
            s["slots"][0]["output_tokens"] != 0
        })
        .await;
        let (follower, ..) = door.whole(&traced, &message, &format!("follow{n}")).await;
        leader.await.unwrap().unwrap().text().await.unwrap();
        let spans = traced.is(&follower, &door.tree(COALESCED, 200)).await;
        ends_last(&spans);
        let wait = spans.iter().find(|s| s.name == "coalesce.wait").unwrap();
        let led = traced.is(&led, &door.tree(LEADER, 200)).await;
        let chat = led.iter().find(|s| s.name == "chat scripted").unwrap();
        assert_eq!(wait.links, std::slice::from_ref(&chat.id));
    }
}

#[tokio::test]
async fn blocked() {
    for (variant, expected, code) in [(2, REPLIED, 200), (3, REFUSED, 422)] {
        let body = words(1024, &[0, variant, 600, 14]) + "(i32.const 1024)";
        let traced = Traced::with(&[], put("guard.wasm", &Guest::guard("stern", &body))).await;
        for door in DOORS {
            let (trace, status, _) = door.whole(&traced, "hello", "one").await;
            assert_eq!(status, code);
            ends_last(&traced.is(&trace, &door.tree(expected, code)).await);
        }
    }
}

#[tokio::test]
async fn overloaded_and_cancelled_before_the_first_byte() {
    let sets = [
        "engine.script.token=200ms",
        "cache.store=off",
        "engine.slots=1",
        "engine.queue=1",
    ];
    let traced = Traced::start(&sets).await;
    for (n, door) in DOORS.into_iter().enumerate() {
        let (first, _) = door.start(&traced, &format!("first{n}"), &format!("first{n}"));
        slot(&traced, "one runs", |s| s["slots"][0]["state"] != "idle").await;
        let (second, left) = door.start(&traced, &format!("second{n}"), &format!("second{n}"));
        slot(&traced, "one waits", |s| s["queued"] == 1).await;
        let (trace, status, _) = door.whole(&traced, "third", &format!("third{n}")).await;
        assert_eq!(status, 429);
        let tree = door.tree(OVERLOADED, 429);
        ends_last(&traced.is(&trace, &tree).await);
        leave(second).await;
        traced.is(&left, &door.left(LEFT_EARLY)).await;
        leave(first).await;
        slot(&traced, "all left", |s| s["slots"][0]["state"] == "idle").await;
    }
}

#[tokio::test]
async fn cancelled_after_the_first_byte() {
    let traced = Traced::start(&["engine.script.token=100ms", "cache.store=off"]).await;
    for (n, door) in DOORS.into_iter().enumerate() {
        let (asked, trace) = door.start(&traced, &format!("hello{n}"), &format!("one{n}"));
        slot(&traced, "it speaks", |s| {
            s["slots"][0]["output_tokens"].as_u64() > Some(2)
        })
        .await;
        leave(asked).await;
        traced.is(&trace, &door.left(LEFT_LATE)).await;
        slot(&traced, "it left", |s| s["slots"][0]["state"] == "idle").await;
    }
}

#[tokio::test]
async fn an_engine_that_fails() {
    let sets = [
        "engine.script.token=1300ms",
        "engine.stall_after=1s",
        "cache.store=off",
    ];
    let traced = Traced::start(&sets).await;
    for (n, door) in DOORS.into_iter().enumerate() {
        slot(&traced, "the engine is well", |s| {
            s["ready"] == true && s["slots"][0]["state"] == "idle"
        })
        .await;
        let (trace, status, answer) = door.whole(&traced, "hello", &format!("one{n}")).await;
        assert_eq!(status, door.late(500));
        assert!(answer.contains("engine_error"), "{answer}");
        let expected = door.tree(FAILED, door.late(500));
        ends_last(&traced.is(&trace, &expected).await);
    }
}

#[tokio::test]
async fn policies_that_fail_open_and_closed() {
    let bad = Guest::trimmer("bad", TRAP);
    for (fail, expected, code) in [("open", OPEN, 200), ("closed", CLOSED, 503)] {
        let fail = format!("policies.trim.fail={fail}");
        let sets = ["cache.store=off", &fail, "policies.breaker.faults=0"];
        let traced = Traced::with(&sets, put("trim.wasm", &bad)).await;
        for (n, door) in DOORS.into_iter().enumerate() {
            let (trace, status, answer) = door.whole(&traced, "hello", &format!("one{n}")).await;
            assert_eq!(status, code, "{answer}");
            ends_last(&traced.is(&trace, &door.tree(expected, code)).await);
        }
    }
    let bad = Guest::filter("bad", "", TRAP, TRAP);
    for (fail, expected, code) in [("open", FILTER_OPEN, 200), ("closed", FILTER_CLOSED, 503)] {
        let fail = format!("policies.filter.fail={fail}");
        let sets = [
            "cache.store=off",
            "engine.script.token=30ms",
            &fail,
            "policies.breaker.faults=0",
        ];
        let traced = Traced::with(&sets, put("filter.wasm", &bad)).await;
        for (n, door) in DOORS.into_iter().enumerate() {
            let (trace, status, answer) = door.whole(&traced, "hello", &format!("one{n}")).await;
            assert_eq!(status, door.late(code), "{answer}");
            traced
                .is(&trace, &door.tree(expected, door.late(code)))
                .await;
        }
    }
}
