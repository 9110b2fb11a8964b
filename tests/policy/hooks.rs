//! Guards, filters, caches and prompt builders that misbehave: each fault has its kind, refuses
//! where the operator chose `closed`, and changes nothing where he chose `open`.

use std::sync::Arc;

use stent::policy::{
    AnswerOutcome, Denied, Fail, Filter, Hook, Lookup, Policies, RunError, State, Step, Verdict,
};
use stent::types::Finish;

use super::guest::{Guest, HOARD, SPIN, TRAP, words};
use super::support::{Bench, eventually, serving, snapshot, talk};

/// Gateways that serve the guest: one fails closed, one open.
fn gateways(hook: Hook, guest: &Guest) -> [(Bench, Arc<Policies>); 2] {
    [Fail::Closed, Fail::Open].map(|fail| {
        let mut bench = Bench::new();
        bench.put("bad.wasm", &guest.core());
        bench.hook(hook).fail = fail;
        let policies = bench.start();
        let listed = serving(&policies, hook);
        assert_eq!(listed.name, guest.name, "{:?}", policies.list());
        (bench, policies)
    })
}

fn fault<R: std::fmt::Debug>(hook: Hook, result: Result<R, Denied>) -> RunError {
    match result {
        Err(Denied::Refused {
            hook: at, error, ..
        }) if at == hook => error,
        other => panic!("expected the {hook} policy's refusal, got {other:?}"),
    }
}

fn bad(reason: &str) -> RunError {
    RunError::BadResult(reason.into())
}

// ---- guard

async fn guard(body: &str) -> RunError {
    let [(_c, closed), (_o, open)] = gateways(Hook::Guard, &Guest::guard("bad", body));
    let messages = talk(&["Hello"]);
    let verdict = snapshot(&open).guard(&messages).await.unwrap();
    assert_eq!(verdict, Verdict::Allow, "a guard that fails open allows");
    fault(Hook::Guard, snapshot(&closed).guard(&messages).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_traps_spins_or_hoards_is_ended() {
    assert!(matches!(guard(TRAP).await, RunError::Trap(_)));
    assert!(matches!(guard(SPIN).await, RunError::Deadline { .. }));
    assert!(matches!(guard(HOARD).await, RunError::Memory { .. }));
    // result<verdict, string>: the error's text at 4 and 8.
    let own = words(1024, &[1, 600, 14]) + "(i32.const 1024)";
    assert_eq!(
        guard(&own).await,
        RunError::Refused("it will not do".into())
    );
}

#[tokio::test]
async fn a_guards_verdict_is_checked() {
    let verdict = |variant, at, len| words(1024, &[0, variant, at, len]) + "(i32.const 1024)";
    assert_eq!(
        guard(&verdict(1, 2048, 0)).await,
        bad("the verdict's text is empty")
    );
    assert_eq!(
        guard(&verdict(2, 2048, 70_000)).await,
        bad("the verdict's text has 70000 bytes, at most 65536 are taken")
    );
    // Outside of its memory, no UTF-8, no such variant: nothing of it reaches the host.
    let outside = guard(&verdict(3, 4_000_000, 9)).await;
    let garble = "(i32.store8 (i32.const 2048) (i32.const 255))".to_owned();
    let garbled = guard(&(garble + &verdict(1, 2048, 1))).await;
    for error in [outside, garbled, guard(&verdict(9, 0, 0)).await] {
        assert!(matches!(error, RunError::BadResult(_)), "{error}");
    }
    // 5 MB of text: more than policies.limits.result_bytes.
    let huge = format!(
        "(drop (memory.grow (i32.const 100))) {}",
        verdict(1, 2048, 5_000_000)
    );
    assert_eq!(guard(&huge).await, RunError::Results { limit: 4 << 20 });
}

// ---- output filter

/// Emits every chunk as it came.
const ECHO: &str = "(i32.store (i32.const 1096) (local.get $text)) \
                    (i32.store (i32.const 1100) (local.get $bytes)) (i32.const 1088)";
/// Nothing more at the end.
const END: &str = "(i32.const 1152)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_fails_to_open_lets_pass_or_refuses() {
    for (open, kind) in [(TRAP, "trap"), (SPIN, "deadline"), (HOARD, "memory")] {
        let guest = Guest::filter("bad", open, ECHO, END);
        let [(_c, closed), (_o, open)] = gateways(Hook::Filter, &guest);
        let refused = snapshot(&closed).open_filter().await.map(|_| ());
        assert_eq!(fault(Hook::Filter, refused).kind(), kind);
        let mut filter = snapshot(&open).open_filter().await.unwrap();
        assert!(filter.is_passthrough());
        assert_eq!(
            told(&mut filter, &["one ", "two"]).await.unwrap(),
            "one two"
        );
    }
}

/// All that a client would read.
async fn told(filter: &mut Filter, chunks: &[&str]) -> Result<String, Denied> {
    let mut text = String::new();
    for chunk in chunks {
        match filter.push(chunk).await? {
            Step::Emit(emitted) => text.push_str(&emitted),
            Step::Stop { emit, .. } => return Ok(text + &emit),
        }
    }
    Ok(text + &filter.finish(Finish::Stop).await?)
}

async fn filter(guest: &Guest) -> (RunError, String) {
    let [(_c, closed), (_o, open)] = gateways(Hook::Filter, guest);
    let mut refusing = snapshot(&closed).open_filter().await.unwrap();
    let error = fault(
        Hook::Filter,
        told(&mut refusing, &["one ", "two ", "three"]).await,
    );
    // What comes after the fault is nobody's business any more.
    assert_eq!(refusing.push("four").await.unwrap(), Step::Emit("".into()));
    assert_eq!(refusing.finish(Finish::Error).await.unwrap(), "");
    let mut passing = snapshot(&open).open_filter().await.unwrap();
    let text = told(&mut passing, &["one ", "two ", "three"]).await;
    (error, text.unwrap())
}

/// Holds the first chunk back, and does `then` with the second.
fn holding(then: &str) -> Guest {
    let push = format!(
        "(global.set $n (i32.add (global.get $n) (i32.const 1))) \
         (if (i32.eq (global.get $n) (i32.const 2)) (then {then})) (i32.const 1088)"
    );
    Guest::filter("bad", "", &push, END).with("(global $n (mut i32) (i32.const 0))")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_fails_in_a_chunk_loses_no_text() {
    for (body, kind) in [(TRAP, "trap"), (SPIN, "deadline"), (HOARD, "memory")] {
        let (error, text) = filter(&holding(body)).await;
        assert_eq!(error.kind(), kind);
        assert_eq!(text, "one two three", "what it held back is given out");
    }
}

#[tokio::test]
async fn a_filter_that_fails_at_the_end_loses_no_text() {
    let hold = "(i32.const 1088)";
    for (body, kind) in [(TRAP, "trap"), ("(i32.const 1168)", "refused")] {
        let own = Guest::filter("bad", &words(1168, &[1, 600, 14]), hold, body);
        let (error, text) = filter(&own).await;
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(text, "one two three");
    }
}

#[tokio::test]
async fn a_filters_text_is_bounded() {
    let emit = words(1092, &[0, 2048, 70_000]) + "(i32.const 1088)";
    let (error, text) = filter(&Guest::filter("bad", "", &emit, END)).await;
    assert_eq!(
        error,
        bad("it emits 70000 bytes at once, at most 65540 are taken")
    );
    assert_eq!(text, "one two three");
    let end = words(1156, &[2048, 70_000]) + END;
    let (error, text) = filter(&Guest::filter("bad", "", ECHO, &end)).await;
    assert!(matches!(error, RunError::BadResult(_)), "{error}");
    assert_eq!(text, "one two three");
    // Many texts that are not too long are together.
    let emit = words(1092, &[0, 2048, 40_000]) + "(i32.const 1088)";
    let [(_c, closed), _] = gateways(Hook::Filter, &Guest::filter("bad", "", &emit, END));
    let mut filter = snapshot(&closed).open_filter().await.unwrap();
    filter.push("one ").await.unwrap();
    assert_eq!(
        fault(Hook::Filter, filter.push("two ").await),
        bad("it emits 40000 bytes at once, at most 25544 are taken")
    );
    // A reason for the log may be as long as it likes; it is cut.
    let stop = words(1092, &[1, 600, 14, 2048, 5000]) + "(i32.const 1088)";
    let [(_c, closed), _] = gateways(Hook::Filter, &Guest::filter("bad", "", &stop, END));
    let mut filter = snapshot(&closed).open_filter().await.unwrap();
    let Step::Stop { emit, reason } = filter.push("one").await.unwrap() else {
        panic!("it stops");
    };
    assert_eq!((emit.as_str(), reason.len()), ("it will not do", 200));
}

#[tokio::test]
async fn a_filter_that_fails_too_often_is_rolled_back() {
    let mut bench = Bench::new();
    bench.settings.breaker.faults = 3;
    bench.put("f.wasm", &Guest::filter("bad", "", TRAP, END).core());
    let policies = bench.start();
    for _ in 0..3 {
        let mut filter = snapshot(&policies).open_filter().await.unwrap();
        assert_eq!(told(&mut filter, &["text"]).await.unwrap(), "text");
    }
    // What serves changes first, the alarm follows.
    let alarm = eventually("an alarm", || policies.alarms().pop());
    assert!(alarm.contains("the filter policy bad was rolled back"));
    assert_eq!(serving(&policies, Hook::Filter).state, State::Builtin);
}

// ---- cache

const SKIP: &str = "(i32.const 1024)";

async fn cache(decide: &str) -> RunError {
    let [(_c, closed), (_o, open)] = gateways(Hook::Cache, &Guest::cache("bad", decide, SKIP));
    let messages = talk(&["Hello"]);
    let lookup = snapshot(&open).cache_decide(&messages).await.unwrap();
    assert_eq!(
        lookup,
        Lookup::Bypass,
        "a cache that fails open is not asked"
    );
    fault(Hook::Cache, snapshot(&closed).cache_decide(&messages).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_policy_cannot_take_more_than_it_was_granted() {
    // By(key): basis, list of parts, scope, age.
    let key = |basis, parts, len, scope| {
        words(1024, &[0, 0, 1, 0, basis, parts, len, scope, 1000, 0]) + "(i32.const 1024)"
    };
    assert_eq!(
        cache(&key(0, 0, 0, 2)).await,
        bad("it asks for scope shared, policies.cache.scope grants session")
    );
    let empty = cache(&key(1, 0, 0, 0)).await;
    assert!(
        empty.to_string().contains("the key has 0 parts of 0 bytes"),
        "{empty}"
    );
    // 65 parts of no bytes each.
    let many = cache(&key(1, 4096, 65, 0)).await;
    assert!(many.to_string().contains("the key has 65 parts"), "{many}");
    assert!(matches!(cache(TRAP).await, RunError::Trap(_)));
    assert!(matches!(cache(SPIN).await, RunError::Deadline { .. }));
}

#[tokio::test]
async fn an_answer_is_not_kept_when_its_admission_fails() {
    let guest = Guest::cache("bad", "(i32.const 1024)", TRAP);
    for (_bench, policies) in gateways(Hook::Cache, &guest) {
        let outcome = AnswerOutcome {
            finish: Finish::Stop,
            prompt_tokens: 1,
            output_tokens: 1,
            elapsed: std::time::Duration::ZERO,
        };
        let kept = snapshot(&policies)
            .cache_admit(&talk(&["Hello"]), "text", outcome)
            .await;
        assert_eq!(kept, None);
    }
}

// ---- prompt

/// A layout of nothing at all.
const PLAIN: &str = "(i32.const 1024)";

async fn prompt(declare: &str, build: &str) -> RunError {
    let [(_c, closed), (_o, open)] = gateways(Hook::Prompt, &Guest::prompt("bad", declare, build));
    let messages = talk(&["one", "two", "three"]);
    let built = snapshot(&open).build(&messages).await.unwrap();
    let native = {
        let mut bench = Bench::new();
        bench.settings.prompt.bundled = Some("none".into());
        let policies = bench.start();
        snapshot(&policies).build(&messages).await.unwrap()
    };
    assert_eq!(built, native, "native code builds where the guest fails");
    fault(Hook::Prompt, snapshot(&closed).build(&messages).await)
}

/// A plan of these pieces: variant, then text and length, or id and 0.
fn plan(pieces: &[[u32; 3]]) -> String {
    let laid = pieces.iter().zip(0..).map(|([variant, a, b], n)| {
        let at = 2048 + 16 * n;
        words(at, &[*variant, 0, *a, *b])
    });
    let count = pieces.len() as u32;
    laid.collect::<String>() + &words(1088, &[0, 2048, count, 0, 0, 0]) + "(i32.const 1088)"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_builder_cannot_lie_about_messages() {
    let message = |id| [2, id, 0];
    assert_eq!(
        prompt(PLAIN, &plan(&[message(2), message(99)])).await,
        bad("message 99 was not kept")
    );
    assert_eq!(
        prompt(PLAIN, &plan(&[message(2), message(0), message(2)])).await,
        bad("message 2 comes twice")
    );
    assert_eq!(
        prompt(PLAIN, &plan(&[message(0), message(1)])).await,
        bad("message 2 must be in the prompt")
    );
    // It promised a layout of no tokens, and adds 3000.
    let long = plan(&[message(2), [1, 4096, 3000]]);
    let error = prompt(PLAIN, &long).await.to_string();
    assert!(
        error.contains("the prompt has 3005 tokens, 1800 fit"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_builder_that_fails_is_replaced_for_layout_and_prompt_alike() {
    assert!(matches!(prompt(TRAP, TRAP).await, RunError::Trap(_)));
    assert!(matches!(prompt(PLAIN, TRAP).await, RunError::Trap(_)));
    assert!(matches!(
        prompt(PLAIN, SPIN).await,
        RunError::Deadline { .. }
    ));
    let own = words(1088, &[1, 600, 14]) + "(i32.const 1088)";
    assert_eq!(
        prompt(PLAIN, &own).await,
        RunError::Refused("it will not do".into())
    );
    // With such a layout every question would be too long, and nobody's fault.
    for layout in [[u32::MAX, 0], [0, 1800], [900, 900], [u32::MAX, u32::MAX]] {
        let liar = words(1024, &layout) + "(i32.const 1024)";
        let error = prompt(&liar, TRAP).await.to_string();
        assert!(error.contains("its layout alone takes"), "{error}");
        assert!(error.ends_with("and a prompt may have 1800"), "{error}");
    }
    // One reserved string of no bytes would be found everywhere.
    let empty = words(2048, &[600, 0]) + &words(1024, &[0, 0, 2048, 1]) + "(i32.const 1024)";
    let error = prompt(&empty, TRAP).await.to_string();
    assert!(error.contains("reserved has 1 strings"), "{error}");
}
