//! Answers that are asked for once more, that are stopped, and that a leader leaves to others.

use serde_json::{Value, json};

use super::expected::*;
use super::traced::*;
use crate::support::server::{Frames, told};

/// Another answer is drawn anew, behind the conversation as it was before the old one.
#[tokio::test]
async fn another_answer_to_the_same_question() {
    let traced = Traced::start(&["cache.store=off"]).await;
    answer(traced.ask("hello", "one").await).await;
    let body = json!({ "message": "hello", "session_id": "one", "trigger": "regenerate-message" });
    let (trace, _) = answer(traced.server.post("/chat/stream", body).await).await;
    let drawn = LEADER.replace(r#"seed.source="derived""#, r#"seed.source="random""#);
    let spans = traced.is(&trace, &drawn).await;
    ends_last(&spans);
    // One exchange was there, and its answer was replaced.
    for stage in ["session.load", "session.append"] {
        let span = spans.iter().find(|span| span.name == stage).unwrap();
        let turns = ("stent.session.turns".to_owned(), json!(1));
        assert!(span.attributes.contains(&turns), "{span:?}");
    }
}

/// A request that comes again under its key runs no prompt: it reads what the first one says or said.
#[tokio::test]
async fn the_same_request_again() {
    let traced = Traced::start(&["cache.store=off", "engine.script.token=100ms"]).await;
    let ask = async || {
        let url = format!("{}/chat/stream", traced.server.base);
        let body = json!({ "message": "hello", "session_id": "one", "seed": "random" });
        let asked = traced.server.client.post(url).json(&body);
        asked.header("idempotency-key", "k").send().await.unwrap()
    };
    let read = async |response: reqwest::Response| {
        let trace = trace_of(&response);
        let text = response.text().await.unwrap();
        assert!(text.ends_with("[DONE]\n\n"), "{text}");
        trace
    };
    let first = ask().await;
    let during = read(ask().await).await;
    let whole = read(first).await;
    let after = read(ask().await).await;
    let drawn = LEADER.replace(r#"seed.source="derived""#, r#"seed.source="random""#);
    ends_last(&traced.is(&whole, &drawn).await);
    for (trace, outcome) in [(during, "coalesced"), (after, "cached")] {
        let drawn = format!(
            "POST /chat/stream SERVER http.response.status_code=200 http.route=\"/chat/stream\" stent.outcome=\"{outcome}\"\n"
        );
        traced.is(&trace, &drawn).await;
    }
}

/// Who presses stop is another request than the one whose answer ends.
#[tokio::test]
async fn a_stopped_stream() {
    let traced = Traced::start(&["cache.store=off", "engine.script.token=200ms"]).await;
    let body = json!({ "message": "hello", "session_id": "one", "resume": true });
    let response = traced.server.post("/chat/stream", body).await;
    let trace = trace_of(&response);
    slot(&traced, "it speaks", |s| {
        s["slots"][0]["output_tokens"].as_u64() > Some(1)
    })
    .await;
    let url = format!("{}/chat/stream/one", traced.server.base);
    let stopped = traced.server.client.delete(url).send().await.unwrap();
    assert_eq!(stopped.status(), 204);
    let rest = response.text().await.unwrap();
    assert!(rest.contains("\"abort\""), "{rest}");
    let drawn = LEFT_LATE.replace("! client_disconnected", "! stopped");
    ends_last_but_for_the_run(&traced.is(&trace, &drawn).await);
    let drawn = "DELETE /chat/stream/{response_id} SERVER http.response.status_code=204 http.route=\"/chat/stream/{response_id}\" stent.outcome=\"ok\"\n";
    traced.is(&trace_of(&stopped), drawn).await;
}

/// Whoever began leaves, others read on: the run stays in its trace and comes to its end.
#[tokio::test]
async fn a_leader_that_leaves_its_run_to_others() {
    let traced = Traced::start(&["cache.store=off", "engine.script.token=150ms"]).await;
    let (led, leader) = traced.begun("same", "one").await;
    let follower = traced.ask("same", "two").await;
    drop(leader);
    let (followed, frames) = answer(follower).await;
    assert_eq!(told(&frames).1["coalesced"], true);
    let drawn = LEFT_LATE.replace(r#"["cancelled"]"#, r#"["stop"]"#);
    let spans = traced.is(&led, &drawn).await;
    ends_last_but_for_the_run(&spans);
    let chat = spans.iter().find(|s| s.name == "chat scripted").unwrap();
    let spans = traced.is(&followed, COALESCED).await;
    ends_last(&spans);
    let wait = spans.iter().find(|s| s.name == "coalesce.wait").unwrap();
    assert_eq!(wait.links, std::slice::from_ref(&chat.id));
}

/// The whole process stands still for longer than `engine.stall_after`: the answer that was being
/// drawn is lost, and its trace shows in which stage.
#[tokio::test]
async fn an_answer_that_stalls_between_its_words() {
    let sets = [
        "cache.store=off",
        "engine.script.token=200ms",
        "engine.stall_after=1s",
    ];
    let traced = Traced::start(&sets).await;
    // Between two steps nobody notices the pause.
    for n in 0..5 {
        let (trace, frames) = traced.begun(&format!("hello{n}"), &format!("one{n}")).await;
        traced.server.signal("STOP");
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        traced.server.signal("CONT");
        if ends(frames).await["code"] == "engine_error" {
            return ends_last(&traced.is(&trace, &stalled_while_decoding()).await);
        }
    }
    panic!("no pause was noticed");
}

/// The last frame.
async fn ends(frames: Frames) -> Value {
    frames.rest().await.pop().unwrap_or_default()
}

fn stalled_while_decoding() -> String {
    FAILED
        .replace("  admission", "  ! first_byte\n  admission")
        .replace(
            "    prefill INTERNAL FAILED error.type=\"stalled\" stent.slot=0\n",
            "    ! first_token stent.slot=0\n    decode INTERNAL FAILED error.type=\"stalled\" stent.slot=0\n    prefill INTERNAL stent.slot=0\n",
        )
}
