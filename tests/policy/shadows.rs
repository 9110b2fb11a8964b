//! Shadows: asked what the live policy is asked, at every hook, and compared only.

use std::time::Duration;

use stent::policy::{AnswerOutcome, Hook, Policies, Step, Verdict};
use stent::types::Finish;

use super::guest::{Guest, TRAP, keeper, words};
use super::support::{Bench, eventually, serving, shadow, snapshot, talk};

/// Waits for as many comparisons as were asked for.
#[track_caller]
fn compared(policies: &Policies, hook: Hook, counts: &str) {
    let reason = || shadow(policies, hook).unwrap().reason.unwrap();
    let mut last = String::new();
    eventually(counts, || {
        last = reason();
        let all = [counts, ", 0 skipped"].concat();
        last.ends_with(&all).then_some(())
    });
}

const ALLOW: &str = "(i32.const 1024)";

fn refuse() -> String {
    words(1024, &[0, 3, 600, 14]) + "(i32.const 1024)"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guards_verdict_is_compared() {
    let bench = Bench::new();
    bench.put("g.shadow.wasm", &Guest::guard("next", &refuse()).core());
    let policies = bench.start();
    let messages = talk(&["Hello"]);
    // Native code is live, and allows.
    let verdict = snapshot(&policies).guard(&messages).await.unwrap();
    assert_eq!(verdict, Verdict::Allow, "a shadow touches no answer");
    compared(
        &policies,
        Hook::Guard,
        "0 same, 1 different (other verdict: 1), 0 failed",
    );
    bench.put("live.wasm", &Guest::guard("live", &refuse()).core());
    policies.reload().await.unwrap();
    snapshot(&policies).guard(&messages).await.unwrap();
    compared(
        &policies,
        Hook::Guard,
        "1 same, 1 different (other verdict: 1), 0 failed",
    );
    // A live policy that faults has decided nothing.
    bench.put("live.wasm", &Guest::guard("live", TRAP).core());
    policies.reload().await.unwrap();
    snapshot(&policies).guard(&messages).await.unwrap();
    bench.put("live.wasm", &Guest::guard("live", ALLOW).core());
    policies.reload().await.unwrap();
    snapshot(&policies).guard(&messages).await.unwrap();
    compared(
        &policies,
        Hook::Guard,
        "1 same, 2 different (other verdict: 2), 0 failed",
    );
}

/// What nobody asked is compared with nothing, and its faults are no reason to roll back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_questions_count_for_nobody() {
    let mut bench = Bench::new();
    bench.settings.breaker.faults = 2;
    bench.settings.record = bench.root.path().join("calls.jsonl");
    bench.put("live.wasm", &Guest::trimmer("live", TRAP).core());
    bench.put("next.shadow.wasm", &keeper("next"));
    bench.put("guard.shadow.wasm", &Guest::guard("next", ALLOW).core());
    let policies = bench.start();
    let messages = talk(&["Hello"]);
    let aside = snapshot(&policies).aside();
    for _ in 0..4 {
        aside.trim(&messages, None).await.unwrap();
        aside.guard(&messages).await.unwrap();
    }
    // One real question is seen, so the others would have been.
    snapshot(&policies).guard(&messages).await.unwrap();
    compared(&policies, Hook::Guard, "1 same, 0 different, 0 failed");
    compared(&policies, Hook::Trim, "0 same, 0 different, 0 failed");
    assert_eq!(serving(&policies, Hook::Trim).name, "live");
    drop((aside, policies));
    let recorded = std::fs::read_to_string(&bench.settings.record).unwrap();
    assert_eq!(recorded.matches("\"ask\":").count(), 1, "{recorded}");
}

/// Emits every chunk as it came, or nothing but closing words at the end.
const ECHO: &str = "(i32.store (i32.const 1096) (local.get $text)) \
                    (i32.store (i32.const 1100) (local.get $bytes)) (i32.const 1088)";
const HOLD: &str = "(i32.const 1088)";
const END: &str = "(i32.const 1152)";

async fn told(policies: &Policies) -> String {
    let mut filter = snapshot(policies).open_filter().await.unwrap();
    let mut text = String::new();
    for chunk in ["one ", "two ", "three"] {
        match filter.push(chunk).await.unwrap() {
            Step::Emit(emitted) => text.push_str(&emitted),
            Step::Stop { emit, .. } => return text + &emit,
        }
    }
    text + &filter.finish(Finish::Stop).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filters_whole_text_is_compared() {
    let bench = Bench::new();
    bench.put(
        "f.shadow.wasm",
        &Guest::filter("next", "", ECHO, END).core(),
    );
    let policies = bench.start();
    assert_eq!(told(&policies).await, "one two three");
    compared(&policies, Hook::Filter, "1 same, 0 different, 0 failed");
    // An answer that the client leaves is not compared: the next one is the second.
    let mut left = snapshot(&policies).open_filter().await.unwrap();
    left.push("one ").await.unwrap();
    drop(left);
    assert_eq!(told(&policies).await, "one two three");
    compared(&policies, Hook::Filter, "2 same, 0 different, 0 failed");
    // Every word is the same, and the end is missing.
    let close = words(1156, &[600, 14]) + END;
    bench.put(
        "f.shadow.wasm",
        &Guest::filter("next", "", ECHO, &close).core(),
    );
    policies.reload().await.unwrap();
    assert_eq!(told(&policies).await, "one two three");
    compared(
        &policies,
        Hook::Filter,
        "0 same, 1 different (other text: 1), 0 failed",
    );
    // The live filter stops the answer; the candidate has heard no more than it, and says nothing.
    let stop = words(1092, &[1, 600, 14, 600, 14]) + HOLD;
    bench.put("live.wasm", &Guest::filter("live", "", &stop, END).core());
    policies.reload().await.unwrap();
    assert_eq!(told(&policies).await, "it will not do");
    compared(
        &policies,
        Hook::Filter,
        "0 same, 2 different (other text: 2), 0 failed",
    );
    bench.put(
        "f.shadow.wasm",
        &Guest::filter("next", "", &stop, END).core(),
    );
    policies.reload().await.unwrap();
    assert_eq!(told(&policies).await, "it will not do");
    compared(&policies, Hook::Filter, "1 same, 0 different, 0 failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_policys_key_and_admission_are_compared() {
    let mut bench = Bench::new();
    bench.settings.cache.bundled = Some("none".into());
    let by_prompt = words(1024, &[0, 0, 1, 0, 0, 0, 0, 0, 1000, 0]) + "(i32.const 1024)";
    let skip = "(i32.const 1024)";
    bench.put(
        "c.shadow.wasm",
        &Guest::cache("next", &by_prompt, skip).core(),
    );
    let policies = bench.start();
    let messages = talk(&["Hello"]);
    // Native code neither looks up nor keeps.
    snapshot(&policies).cache_decide(&messages).await.unwrap();
    compared(
        &policies,
        Hook::Cache,
        "0 same, 1 different (other key: 1), 0 failed",
    );
    let outcome = AnswerOutcome {
        finish: Finish::Stop,
        prompt_tokens: 1,
        output_tokens: 1,
        elapsed: Duration::ZERO,
    };
    let admit = async || {
        snapshot(&policies)
            .cache_admit(&messages, "text", outcome)
            .await
    };
    assert_eq!(admit().await, None);
    compared(
        &policies,
        Hook::Cache,
        "1 same, 1 different (other key: 1), 0 failed",
    );
    // `store(1000 ms)`
    let store = words(1024, &[0, 0, 1, 0, 1000, 0]) + "(i32.const 1024)";
    bench.put(
        "c.shadow.wasm",
        &Guest::cache("next", &by_prompt, &store).core(),
    );
    policies.reload().await.unwrap();
    assert_eq!(admit().await, None, "a shadow keeps no answer");
    compared(
        &policies,
        Hook::Cache,
        "0 same, 1 different (kept otherwise: 1), 0 failed",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_trimming_and_prompts_are_compared_as_well() {
    let mut bench = Bench::new();
    bench.settings.trim.bundled = Some("none".into());
    bench.settings.prompt.bundled = Some("none".into());
    bench.put(
        "t.shadow.wasm",
        &Guest::trimmer("next", "(i32.const 1024)").core(),
    );
    bench.put("p.shadow.wasm", &first_alone("next", 0));
    let policies = bench.start();
    let messages = talk(&["Hello"]);
    snapshot(&policies).trim(&messages, None).await.unwrap();
    compared(&policies, Hook::Trim, "1 same, 0 different, 0 failed");
    snapshot(&policies).build(&messages).await.unwrap();
    let counts = "0 same, 1 different (other prompt tokens: 1), 0 failed";
    compared(&policies, Hook::Prompt, counts);
}

/// A prompt of the first message alone. Who has not declared a layout before builds nothing.
fn first_alone(name: &'static str, stable: u32) -> Vec<u8> {
    let plan = words(2048, &[2, 0, 0, 0]) + &words(1088, &[0, 2048, 1, stable, 0, 0]);
    let declared = "(if (i32.eqz (global.get $declared)) (then (unreachable)))";
    let declare = "(global.set $declared (i32.const 1)) (i32.const 1024)";
    let build = format!("{declared} {plan} (i32.const 1088)");
    let guest = Guest::prompt(name, declare, &build);
    guest
        .with("(global $declared (mut i32) (i32.const 0))")
        .core()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_builder_is_asked_as_if_it_were_live_and_compared_by_its_tokens() {
    let bench = Bench::new();
    bench.put("p.wasm", &first_alone("live", 0));
    // Only its hint for the engine is another one.
    bench.put("p.shadow.wasm", &first_alone("next", 1));
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Prompt).name, "live");
    let built = snapshot(&policies).build(&talk(&["Hello"])).await.unwrap();
    assert_eq!((built.tokens.len(), built.stable), (5, 0));
    compared(&policies, Hook::Prompt, "1 same, 0 different, 0 failed");
}
