//! Two Stents behind a third, and a server that does what no good server does.

pub mod odd;

use serde_json::{Value, json};

use crate::support::server::{Frames, Server, told};
use odd::{BUSY, EMPTY, GOOD, HALF, WRONG, odd, silent_after};

const SAID: &str = "engine.script.text=one two three four five six seven eight nine ten";

/// A Stent that says something, ten words at this pace.
async fn behind(pace: &str) -> Server {
    let token = format!("engine.script.token={pace}");
    Server::start(&["engine.kind=scripted", SAID, &token, "cache.store=off"]).await
}

/// A Stent in front of these addresses.
async fn front(urls: &[String], extra: &[&str]) -> Server {
    let list = serde_json::to_string(urls).unwrap();
    let upstreams = format!("engine.upstreams={list}");
    let sets = [
        "engine.kind=openai",
        &upstreams,
        "engine.upstream.health_every=100ms",
        "engine.upstream.cooldown=200ms",
        "cache.store=off",
    ];
    Server::start(&[&sets[..], extra].concat()).await
}

fn url(server: &Server) -> String {
    format!("{}/v1", server.base)
}

async fn upstreams(server: &Server) -> Vec<Value> {
    let status = server.admin("/admin/slots").await;
    status["upstreams"].as_array().unwrap().clone()
}

fn counted(upstreams: &[Value], what: &str) -> Vec<u64> {
    let counts = upstreams.iter().map(|u| u[what].as_u64().unwrap());
    counts.collect()
}

#[tokio::test]
async fn answers_pass_through_as_they_come_and_sessions_are_kept_in_front() {
    let (a, b) = (behind("30ms").await, behind("30ms").await);
    let server = front(&[url(&a), url(&b)], &[]).await;
    let body = json!({ "message": "Hello", "session_id": "s" });
    let mut frames = Frames::of(server.post("/chat/stream", body).await);
    let mut deltas = 0;
    let mut text = String::new();
    while let Some(data) = frames.next().await {
        if let Some(delta) = serde_json::from_str::<Value>(&data)
            .ok()
            .filter(|frame| frame["type"] == "text-delta")
        {
            deltas += 1;
            text += delta["delta"].as_str().unwrap();
        }
    }
    assert_eq!(text, SAID.split_once('=').unwrap().1);
    assert!(deltas >= 5, "word by word, not at once: {deltas}");
    let session = server.session("s").await;
    assert_eq!(session["messages"].as_array().unwrap().len(), 2);
    // The conversation so far is what the upstream reads, and the session goes home.
    for _ in 0..3 {
        server.chat("And then?", "s").await;
    }
    let requests = counted(&upstreams(&server).await, "requests");
    assert!(
        requests.contains(&4) && requests.contains(&0),
        "{requests:?}"
    );
    assert_eq!(
        server.session("s").await["messages"]
            .as_array()
            .unwrap()
            .len(),
        8
    );
}

#[tokio::test]
async fn the_load_is_shared_and_the_queue_is_here() {
    let (a, b) = (behind("200ms").await, behind("200ms").await);
    let server = front(&[url(&a), url(&b)], &["engine.slots=4"]).await;
    let ask = |n: usize| {
        let body = json!({ "message": format!("q{n}"), "session_id": format!("s{n}") });
        server.post("/chat/stream", body)
    };
    let mut running = Vec::new();
    for n in 0..5 {
        running.push(Frames::of(ask(n).await));
    }
    let fifth = running.pop().unwrap().rest().await;
    let place = fifth.iter().find(|frame| frame["id"] == "queue");
    assert!(place.is_some(), "the fifth waits here: {fifth:?}");
    for stream in running {
        assert!(told(&stream.rest().await).0.ends_with("ten"));
    }
    let shares = counted(&upstreams(&server).await, "requests");
    assert!(shares.iter().all(|&share| share >= 2), "{shares:?}");
}

/// A stream that has said its first words.
async fn begun(server: &Server, n: usize) -> Frames {
    let body = json!({ "message": format!("q{n}"), "session_id": format!("s{n}") });
    let mut frames = Frames::of(server.post("/chat/stream", body).await);
    while !frames.next().await.unwrap().contains("text-delta") {}
    frames
}

#[tokio::test]
async fn an_upstream_that_dies_under_load_costs_only_what_it_had_begun() {
    // The one that dies is slow: what it had begun is far from its end.
    let (a, b) = (behind("500ms").await, behind("100ms").await);
    let server = front(&[url(&a), url(&b)], &["engine.slots=8"]).await;
    let begun = futures::future::join_all((0..6).map(|n| begun(&server, n))).await;
    drop(a);
    let mut whole = 0;
    for stream in begun {
        let frames = stream.rest().await;
        match frames.iter().find(|frame| frame["type"] == "error") {
            Some(error) => {
                let words = error["errorText"].as_str().unwrap();
                assert!(words.contains("the upstream http://127.0.0.1"), "{words}");
            }
            None => whole += 1,
        }
    }
    assert!((2..6).contains(&whole), "{whole} of 6 went on");
    // From then on nobody notices: before the first word another one is asked.
    for n in 10..13 {
        let answer = server.chat(&format!("q{n}"), &format!("s{n}")).await;
        assert!(answer.to_string().contains("ten"), "{answer}");
    }
    server
        .until("the dead one is told", async |s| {
            let status = upstreams(s).await;
            status[0]["healthy"] == false && status[1]["healthy"] == true
        })
        .await;
    drop(b);
    server
        .until("without any upstream it is not ready", async |s| {
            let ready = s.client.get(format!("{}/ready", s.base)).send().await;
            ready.is_ok_and(|response| response.status() == 503)
        })
        .await;
    let body = json!({ "message": "Hello", "session_id": "s" });
    let refused = server.post("/chat", body).await;
    assert_eq!(refused.status(), 503);
    let error: Value = refused.json().await.unwrap();
    assert_eq!(error["error"]["code"], "no_upstream", "{error}");
}

#[tokio::test]
async fn who_leaves_ends_the_work_upstream() {
    let a = behind("200ms").await;
    let server = front(&[url(&a)], &[]).await;
    let body = json!({ "message": "Hello", "session_id": "s" });
    let mut frames = Frames::of(server.post("/chat/stream", body).await);
    while !frames.next().await.unwrap().contains("text-delta") {}
    drop(frames);
    a.until("the upstream's slot is free", async |s| {
        s.idle_slots().await == 4
    })
    .await;
    server
        .until("its own slot is free", async |s| s.idle_slots().await == 4)
        .await;
}

#[tokio::test]
async fn before_the_first_word_another_is_asked_and_after_it_nobody() {
    let (first, asked) = odd(vec![BUSY, EMPTY, HALF]);
    let (second, _also) = odd(vec![GOOD; 10]);
    let server = front(
        &[first, second],
        &[
            "engine.upstream.failures=100",
            "engine.upstream.affinity=1ms",
        ],
    )
    .await;
    let ask = |n: usize| {
        let body = json!({ "message": format!("q{n}") });
        server.post("/chat", body)
    };
    let mut broke_off = 0;
    for n in 0..5 {
        let response = ask(n).await;
        match response.status().as_u16() {
            200 => assert!(response.text().await.unwrap().contains("fine")),
            status => {
                assert_eq!(status, 502, "{}", server.log());
                let words = response.text().await.unwrap();
                assert!(words.contains("without a reason"), "{words}");
                broke_off += 1;
            }
        }
    }
    assert_eq!(broke_off, 1, "only the half answer is an error");
    assert!(asked.try_iter().count() >= 3, "all three were tried");
}

#[tokio::test]
async fn a_clients_mistake_is_told_and_not_repeated() {
    let (first, asked) = odd(vec![WRONG]);
    let (second, other) = odd(vec![WRONG]);
    let server = front(&[first, second], &[]).await;
    let response = server.post("/chat", json!({ "message": "q" })).await;
    let words = response.text().await.unwrap();
    assert!(words.contains("max_tokens is too large"), "{words}");
    let times = asked.try_iter().count() + other.try_iter().count();
    assert_eq!(times, 1, "a mistake is the same everywhere");
    assert_eq!(counted(&upstreams(&server).await, "failures"), [0, 0]);
}

#[tokio::test]
async fn the_key_the_trace_and_the_messages_are_sent_and_the_key_stays_hidden() {
    let (address, asked) = odd(vec![GOOD, GOOD]);
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "s3cret-upstream-key\n").unwrap();
    let upstreams = format!(
        "engine.upstreams=[{{ url = \"{address}\", key_file = \"{}\" }}]",
        key.display()
    );
    let sets = [
        "engine.kind=openai",
        &upstreams,
        "log.filter=trace",
        "cache.store=off",
    ];
    let server = Server::start(&sets).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for message in ["first", "second"] {
        let request = server.client.post(format!("{}/chat", server.base));
        let body = json!({ "message": message, "session_id": "s" });
        let response = request.header("traceparent", parent).json(&body).send();
        assert_eq!(response.await.unwrap().status(), 200, "{}", server.log());
    }
    let requests: Vec<String> = asked.try_iter().collect();
    let [_, second] = &requests[..] else {
        panic!("two requests: {requests:?}")
    };
    let lower = second.to_ascii_lowercase();
    assert!(
        lower.contains("authorization: bearer s3cret-upstream-key"),
        "{second}"
    );
    assert!(
        lower.contains("traceparent: 00-0af7651916cd43dd8448eb211c80319c-"),
        "{second}"
    );
    assert!(
        !lower.contains("b7ad6b7169203331"),
        "a span of its own: {second}"
    );
    let body: Value = serde_json::from_str(second.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["model"], "odd");
    let said: Vec<&str> = body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["content"].as_str().unwrap())
        .collect();
    assert_eq!(said, ["first", "fine", "second"]);
    for shown in [
        server.log(),
        server.admin("/admin/slots").await.to_string(),
        server.metrics().await,
    ] {
        assert!(!shown.contains("s3cret"), "the key is shown");
    }
}

#[tokio::test]
async fn the_built_prompt_can_be_sent_instead() {
    let (address, asked) = odd(vec![
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
         data: {\"choices\":[{\"text\":\"fine\"}]}\n\n\
         data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
    ]);
    let server = front(&[address], &["engine.upstream.api=completions"]).await;
    server.chat("What is </s> diabetes?", "s").await;
    let request = asked.try_iter().next().unwrap();
    assert!(request.starts_with("POST /v1/completions"), "{request}");
    let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
    let prompt = body["prompt"].as_str().unwrap();
    assert!(
        prompt.contains("[INST]") && prompt.ends_with("[/INST]"),
        "{prompt:?}"
    );
    assert!(prompt.contains("diabetes?"), "{prompt:?}");
    assert!(
        !prompt.starts_with("<s>"),
        "the upstream begins the text itself"
    );
}

#[tokio::test]
async fn silence_is_noticed_before_the_first_word_and_after_it() {
    let (good, _asked) = odd(vec![GOOD; 20]);
    let short = [
        "engine.upstream.first_timeout=300ms",
        "engine.upstream.idle_timeout=300ms",
        "engine.upstream.failures=2",
        "engine.upstream.cooldown=1m",
        "engine.upstream.affinity=1ms",
    ];
    // Before: another one is asked, and after two failures the silent one gets nothing.
    for words in ["", EMPTY] {
        let server = front(&[silent_after(words), good.clone()], &short).await;
        for n in 0..6 {
            let answer = server.chat(&format!("q{n}"), &format!("s{n}")).await;
            assert!(answer.to_string().contains("fine"), "{answer}");
        }
        let status = upstreams(&server).await;
        assert_eq!(counted(&status, "failures"), [2, 0], "{status:?}");
        assert_eq!(status[0]["circuit"], "open", "{status:?}");
        assert_eq!(counted(&status, "requests")[0], 2, "{status:?}");
    }
    // After: the stream ends with an error of its own.
    let server = front(&[silent_after(HALF)], &short).await;
    let body = json!({ "message": "Hello", "session_id": "s" });
    let frames = Frames::of(server.post("/chat/stream", body).await)
        .rest()
        .await;
    assert_eq!(told(&frames).0, "half a");
    let error = frames.iter().find(|frame| frame["type"] == "error");
    let words = error.unwrap()["errorText"].as_str().unwrap();
    assert!(words.contains("silent for 300ms"), "{words}");
}

/// The same question has as many tokens as with the model itself, where its vocabulary is named.
#[tokio::test]
async fn tokens_are_counted_with_a_local_vocabulary() {
    let count = async |server: &Server| {
        let body = json!({ "message": "What is diabetes?", "session_id": "s" });
        let stream = Frames::of(server.post("/chat/stream", body).await);
        told(&stream.rest().await).1["prompt_tokens"]
            .as_u64()
            .unwrap()
    };
    let model = Server::start(&["engine.max_tokens=4", "engine.slots=1"]).await;
    let real = count(&model).await;
    drop(model);
    // This one tells no usage: what is told is what was counted here.
    let (behind, _asked) = odd(vec![GOOD; 2]);
    let server = front(std::slice::from_ref(&behind), &[]).await;
    let estimate = count(&server).await;
    assert!(
        server.log().contains("tokens are estimated"),
        "{}",
        server.log()
    );
    let file = crate::support::server::demo_model();
    let vocabulary = format!("engine.upstream.tokenizer={}", file.display());
    let server = front(&[behind], &[&vocabulary]).await;
    assert_eq!(count(&server).await, real, "estimated: {estimate}");
    assert_ne!(estimate, real);
}
