//! Instances of policies: made ahead, and what happens when all are in use. That many ask at once is
//! nobody's fault, switches nothing off, and keeps no policy from being tried or brought back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::response::IntoResponse;
use stent::error::Error;
use stent::policy::{CallFacts, Denied, Hook, Observer, Policies, Snapshot, State};
use stent::types::Finish;

use super::guest::{Guest, keeper};
use super::support::{Bench, cases, plugin, rejected, serving, snapshot, talk};

/// One instance for all, and a breaker that trips soon.
fn scarce() -> Bench {
    let mut bench = Bench::new();
    bench.settings.limits.warm = 0;
    bench.settings.limits.instances = 1;
    bench.settings.breaker.faults = 3;
    bench
}

/// Takes the only instance for as long as the snapshot lives: it waits for the prompt to be built.
async fn taken(policies: &Policies) -> Snapshot {
    let snapshot = snapshot(policies);
    snapshot.layout().await.unwrap();
    snapshot
}

#[tokio::test]
async fn many_requests_at_once_roll_no_policy_back() {
    let bench = scarce();
    bench.put("t.wasm", &keeper("keeper"));
    let policies = bench.start();
    let taken = taken(&policies).await;
    for _ in 0..3 {
        let trimmed = snapshot(&policies).trim(&talk(&["a"]), None).await;
        assert_eq!(trimmed.unwrap().kept, [0], "native code decides");
    }
    drop(taken);
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "keeper");
    assert_eq!(policies.alarms(), Vec::<String>::new());
}

#[tokio::test]
async fn policies_are_tried_and_brought_back_however_many_ask() {
    let bench = scarce();
    bench.put("t.wasm", &keeper("one"));
    let policies = bench.start();
    let _taken = taken(&policies).await;
    std::fs::write(bench.path("t.cases.json"), cases("[0, 1]")).unwrap();
    bench.put("t.wasm", &keeper("two"));
    policies.reload().await.unwrap();
    assert_eq!(rejected(&policies, "t.wasm"), None);
    assert_eq!(serving(&policies, Hook::Trim).name, "two");
    policies.rollback(Hook::Trim).await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "one");
}

/// Otherwise who asks often enough could talk past a guard that fails open.
#[tokio::test]
async fn no_text_passes_a_guard_or_filter_for_want_of_an_instance() {
    let mut bench = scarce();
    bench.settings.filter.bundled = Some("filter-redact".into());
    bench.put("g.wasm", &Guest::guard("watch", "(i32.const 1024)").core());
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Guard).state, State::Live);
    let taken = taken(&policies).await;
    let guarded = snapshot(&policies).guard(&talk(&["Hello"])).await;
    let filtered = snapshot(&policies).open_filter().await.map(|_| ());
    let both = [(Hook::Guard, guarded.map(|_| ())), (Hook::Filter, filtered)];
    for (hook, denied) in both {
        let denied = denied.expect_err("nothing passes");
        assert!(
            matches!(denied, Denied::Busy { hook: at, .. } if at == hook),
            "{denied}"
        );
        let response = Error::from(denied).into_response();
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
    }
    drop(taken);
    snapshot(&policies).guard(&talk(&["Hello"])).await.unwrap();
}

/// Making warm instances of a slow policy is no reason for others to wait.
#[tokio::test]
async fn a_policy_that_is_slow_to_get_ready_holds_nothing_up() {
    let slow = "(local $n i64) (loop (local.set $n (i64.add (local.get $n) (i64.const 1))) \
                (br_if 0 (i64.lt_u (local.get $n) (i64.const 600000000)))) (i32.const 512)";
    let guest = Guest::trimmer("slow", "(i32.const 1024)")
        .configure(slow)
        .core();
    let time = async |warm| {
        let mut bench = Bench::new();
        bench.settings.limits.warm = warm;
        bench.settings.limits.probe = Duration::from_secs(60);
        // It is compiled when it is timed.
        bench.put("t.wasm", &guest);
        drop(bench.start());
        std::fs::remove_file(bench.path("t.wasm")).unwrap();
        let policies = bench.start();
        let start = Instant::now();
        bench.put("t.wasm", &guest);
        policies.reload().await.unwrap();
        assert_eq!(serving(&policies, Hook::Trim).name, "slow");
        start.elapsed()
    };
    let (once, many) = (time(0).await, time(12).await);
    assert!(
        many < 6 * once,
        "{many:?} where getting ready takes {once:?}"
    );
}

/// Counts the filters and prompt builders that no instance was ready for.
#[derive(Clone, Default)]
struct Cold(Arc<AtomicU64>);

impl Observer for Cold {
    fn cold(&self, hook: Hook) {
        self.0
            .fetch_add(u64::from(hook != Hook::Cache), Ordering::Relaxed);
    }
}

/// Filters, and builders of which no prompt was asked.
#[tokio::test]
async fn what_outlives_a_call_is_made_ahead_again_and_again() {
    let mut bench = Bench::new();
    bench.settings.limits.warm = 4;
    bench.settings.filter.bundled = Some("filter-redact".into());
    let cold = Cold::default();
    let policies = bench.watched_by(Arc::new(cold.clone())).unwrap();
    let answer = async || {
        let before = cold.0.load(Ordering::Relaxed);
        snapshot(&policies).layout().await.unwrap();
        let mut filter = snapshot(&policies).open_filter().await.unwrap();
        filter.push("Take two.").await.unwrap();
        filter.finish(Finish::Stop).await.unwrap();
        cold.0.load(Ordering::Relaxed) - before
    };
    // One after the other faster than they are made may find none; in good time there is one.
    let (start, mut in_a_row) = (Instant::now(), 0);
    while in_a_row < 12 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        in_a_row = if answer().await == 0 { in_a_row + 1 } else { 0 };
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "nothing is made ahead any more"
        );
    }
}

/// The most memory that each hook's calls had.
#[derive(Default)]
struct Peaks(Mutex<Vec<(Hook, usize)>>);

impl Observer for Peaks {
    fn called(&self, call: &CallFacts<'_>) {
        self.0.lock().unwrap().push((call.hook, call.memory_peak));
    }
}

/// Bytes that the module's memory has from its start.
fn initial_memory(module: &[u8]) -> u64 {
    let mut parts = wasmparser::Parser::new(0).parse_all(module);
    let memory = parts.find_map(|part| match part.unwrap() {
        wasmparser::Payload::MemorySection(memories) => memories.into_iter().next(),
        _ => None,
    });
    memory.unwrap().unwrap().initial * (64 << 10)
}

/// Memory that an instance asks for must be opened and closed again by the host, which costs more than
/// what these policies do.
#[tokio::test]
async fn bundled_policies_do_with_the_memory_that_they_start_with() {
    let mut bench = Bench::new();
    bench.settings.guard.bundled = Some("guard-limits".into());
    bench.settings.filter.bundled = Some("filter-redact".into());
    let peaks = Arc::new(Peaks::default());
    let policies = bench.watched_by(peaks.clone()).unwrap();
    let long = "What are the signs of diabetes, and what can be done? ".repeat(20);
    let messages = talk(&[&long, "Thirst.", &long, "Sweets are bad.", &long]);
    let snapshot = snapshot(&policies);
    snapshot.guard(&messages).await.unwrap();
    snapshot.cache_decide(&messages).await.unwrap();
    let trimmed = snapshot.trim(&messages, None).await.unwrap();
    snapshot.build(&trimmed.of(&messages)).await.unwrap();
    let mut filter = snapshot.open_filter().await.unwrap();
    for _ in 0..200 {
        filter.push("It can be treated. ").await.unwrap();
    }
    filter.finish(Finish::Stop).await.unwrap();
    drop((filter, snapshot));
    let peaks = peaks.0.lock().unwrap();
    for (hook, name) in [
        (Hook::Guard, "guard-limits"),
        (Hook::Cache, "cache-exact"),
        (Hook::Trim, "trim-exchanges"),
        (Hook::Prompt, "prompt-mistral"),
        (Hook::Filter, "filter-redact"),
    ] {
        let start = initial_memory(&plugin(name));
        assert!(start <= 512 << 10, "{name} starts with {start} bytes");
        let mut of_hook = peaks.iter().filter(|(it, _)| *it == hook);
        assert!(of_hook.clone().count() > 0, "{name} was not asked");
        assert!(
            of_hook.all(|(_, peak)| *peak as u64 == start),
            "{name} starts with {start} bytes: {peaks:?}"
        );
    }
}
