//! What a prompt builder may hand over: each bound of a plan is one of its own.

use stent::policy::{Denied, Fail, Hook};

use super::guest::{Guest, words};
use super::support::{Bench, serving, snapshot, talk};

/// What is said of a plan of so many pieces at 16384, the first of which has so many bytes of text, with
/// these stop texts.
async fn refused(pieces: u32, bytes: u32, stops: &[[u32; 2]]) -> String {
    let grow = "(drop (memory.grow (i32.const 30)))";
    let first = words(16384, &[1, 0, 400_000, bytes]);
    let fill = "(memory.fill (i32.const 400000) (i32.const 97) (i32.const 1200000))";
    let stop: String = stops
        .iter()
        .zip(0..)
        .map(|(it, n)| words(4096 + 8 * n, it))
        .collect();
    let count = stops.len() as u32;
    let plan = words(1088, &[0, 16384, pieces, 0, 4096, count]) + "(i32.const 1088)";
    let build = format!("{grow} {fill} {first} {stop} {plan}");
    let mut bench = Bench::new();
    bench.settings.prompt.fail = Fail::Closed;
    bench.settings.limits.call = std::time::Duration::from_secs(5);
    bench.put(
        "p.wasm",
        &Guest::prompt("p", "(i32.const 1024)", &build).core(),
    );
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Prompt).name, "p");
    match snapshot(&policies).build(&talk(&["a"])).await {
        Err(Denied::Refused { error, .. }) => error.to_string(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn the_bounds_of_a_plan_hold_one_by_one() {
    let bad = |reason: &str| format!("it answered what cannot be done: {reason}");
    let most = "at most 10000 pieces and 1048576 bytes are taken";
    assert_eq!(
        refused(10_001, 0, &[]).await,
        bad(&format!(
            "the plan has 10001 pieces with 0 bytes of its own, {most}"
        ))
    );
    assert_eq!(
        refused(1, (1 << 20) + 1, &[]).await,
        bad(&format!(
            "the plan has 1 pieces with 1048577 bytes of its own, {most}"
        ))
    );
    // So many are taken: what is wrong then is that the message is missing.
    let missing = bad("message 0 must be in the prompt");
    assert_eq!(
        refused(10_000, 1 << 20, &[[400_000, 256]; 64]).await,
        missing
    );
    let stops = |count| {
        bad(&format!(
            "stop has {count} strings, expected at most 64 of 1 to 256 bytes"
        ))
    };
    assert_eq!(refused(1, 1, &[[400_000, 1]; 65]).await, stops(65));
    assert_eq!(refused(1, 1, &[[400_000, 257]]).await, stops(1));
    assert_eq!(refused(1, 1, &[[400_000, 0]]).await, stops(1));
}
