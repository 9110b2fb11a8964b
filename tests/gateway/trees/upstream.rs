//! Kind "openai": one trace over both gateways, and what it shows of an upstream that fails.

use serde_json::json;

use super::expected::*;
use super::traced::*;
use crate::operations::upstreams::odd::{HALF, WRONG, odd};
use crate::support::otlp::Received;

async fn in_front(behind: &Traced, url: &str) -> Traced {
    let upstreams = format!("engine.upstreams=[\"{url}\"]");
    let sets = ["engine.kind=openai", "cache.store=off", &upstreams];
    behind.beside(&sets).await
}

/// The upstream's own tree, below the inference that it is.
fn below(tree: &str) -> String {
    tree.lines().map(|line| format!("    {line}\n")).collect()
}

fn chat(spans: &[Received], provider: &str) -> Received {
    let of = ("gen_ai.provider.name".to_owned(), json!(provider));
    let chats = spans.iter().filter(|span| span.name == "chat scripted");
    let mut found = chats.filter(|span| span.attributes.contains(&of));
    found.next().unwrap().clone()
}

#[tokio::test]
async fn a_request_and_what_its_upstream_does_are_one_trace() {
    let behind = Traced::start(&["cache.store=off"]).await;
    let front = in_front(&behind, &format!("{}/v1", behind.server.base)).await;
    let (trace, frames) = answer(front.ask("hello", "one").await).await;
    assert!(
        frames.iter().any(|frame| frame["type"] == "finish"),
        "{frames:?}"
    );
    // Nobody's session is the upstream's business.
    let sessions = ["session.append", "session.load"];
    let own = LEADER
        .replace("/chat/stream", "/v1/chat/completions")
        .replace(r#"seed.source="derived""#, r#"seed.source="client""#);
    let own = own.lines();
    let own = own.filter(|line| !sessions.iter().any(|name| line.contains(name)));
    let own: String = own.map(|line| format!("{line}\n")).collect();
    let drawn = LEADER.replacen(
        "    decode INTERNAL",
        &format!("{}    decode INTERNAL", below(&own)),
        1,
    );
    let spans = front.is(&trace, &drawn).await;
    let (asks, computes) = (chat(&spans, "openai"), chat(&spans, "llama_cpp"));
    // What the upstream tells of its tokens is what this gateway tells.
    for usage in ["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"] {
        let of = |span: &Received| {
            let found = span.attributes.iter().find(|(key, _)| key == usage);
            found.and_then(|(_, value)| value.as_u64()).unwrap()
        };
        assert_eq!(of(&asks), of(&computes), "{usage}");
    }
    assert!(asks.start <= computes.start && computes.start < asks.end);
}

/// An upstream that fails before its first word, and one that fails after it.
#[tokio::test]
async fn an_upstream_that_fails() {
    let behind = Traced::start(&["cache.store=off"]).await;
    let failed = FAILED
        .replace(r#""engine_error""#, r#""upstream_error""#)
        .replace("chat scripted", "chat odd")
        .replace(r#" FAILED error.type="stalled""#, "");
    let midway = failed
        .replace("  admission", "  ! first_byte\n  admission")
        .replace(
            "    prefill",
            "    ! first_token stent.slot=0\n    decode INTERNAL stent.slot=0\n    prefill",
        );
    for (answers, drawn) in [(WRONG, failed), (HALF, midway)] {
        let (url, _asked) = odd(vec![answers]);
        let front = in_front(&behind, &url).await;
        let (trace, frames) = answer(front.ask("hello", "one").await).await;
        assert_eq!(frames.last().unwrap()["code"], "upstream_error");
        ends_last(&front.is(&trace, &drawn).await);
    }
}
