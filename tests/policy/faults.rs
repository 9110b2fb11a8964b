//! Guests that misbehave while serving: each fault has its kind, and never decides.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stent::policy::{Denied, Fail, FaultFacts, Hook, Observer, RunError, Verdict};
use tracing_subscriber::layer::SubscriberExt;

use super::guest::Guest;
use super::support::{Bench, eventually, rejected, serving, snapshot, talk};

/// Puts the guest in, asks it once, and returns the fault; then asks again with `fail = "open"`.
async fn fault(body: &str) -> RunError {
    let mut bench = Bench::new();
    bench.put("bad.wasm", &Guest::trimmer("bad", body).core());
    bench.settings.trim.fail = Fail::Closed;
    let policies = bench.start();
    assert_eq!(
        serving(&policies, Hook::Trim).name,
        "bad",
        "{:?}",
        policies.list()
    );
    let messages = talk(&["one", "two", "three"]);
    let refused = snapshot(&policies).trim(&messages, None).await;
    let Err(Denied::Refused {
        hook: Hook::Trim,
        error,
        ..
    }) = refused
    else {
        panic!("expected a refusal, got {refused:?}");
    };
    bench.settings.trim.fail = Fail::Open;
    drop(policies);
    let policies = bench.start();
    let trimmed = snapshot(&policies).trim(&messages, None).await.unwrap();
    assert_eq!(
        trimmed.kept,
        [0, 1, 2],
        "native code decides when a guest fails open"
    );
    error
}

/// One worker thread for both: the guest has to yield for the other task to run.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_loop_ends_at_its_deadline_and_blocks_nobody() {
    let mut bench = Bench::new();
    bench.settings.limits.call = Duration::from_millis(400);
    bench.settings.trim.fail = Fail::Closed;
    let spin = "(loop (br 0)) (unreachable)";
    bench.put("bad.wasm", &Guest::trimmer("bad", spin).core());
    let policies = bench.start();
    let spinning = tokio::spawn(async move {
        snapshot(&policies)
            .trim(&talk(&["one", "two", "three"]), None)
            .await
    });
    let turns = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = turns.clone();
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let ended = spinning.await.unwrap();
    let turns = turns.load(std::sync::atomic::Ordering::Relaxed);
    other.abort();
    let Err(Denied::Refused { error, .. }) = ended else {
        panic!("expected a refusal, got {ended:?}");
    };
    assert!(matches!(error, RunError::Deadline { .. }), "{error}");
    assert!(turns >= 5, "the other task had {turns} turns in 400 ms");
}

#[tokio::test]
async fn a_huge_allocation_is_a_memory_fault() {
    let error = fault("(drop (memory.grow (i32.const 20000))) (i32.const 1024)").await;
    assert!(
        matches!(
            error,
            RunError::Memory {
                limit: 67_108_864,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn deep_recursion_is_a_stack_fault() {
    let body = "(drop (call $deep (i32.const 0))) (i32.const 1024)) \
                (func $deep (param i32) (result i32) \
                (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (local.get 0))";
    let error = fault(body).await;
    assert!(matches!(error, RunError::Stack { .. }), "{error}");
}

#[tokio::test]
async fn a_trap_is_a_trap() {
    let error = fault("(unreachable)").await;
    assert!(matches!(error, RunError::Trap(_)), "{error}");
}

#[tokio::test]
async fn an_unknown_id_is_refused() {
    let body = "(i32.store8 (i32.const 1032) (i32.const 1)) \
                (i64.store (i32.const 1040) (i64.const 99)) (i32.const 1024)";
    assert_eq!(
        fault(body).await,
        RunError::BadResult("there is no message with id 99".into())
    );
}

#[tokio::test]
async fn ids_that_do_not_rise_are_refused() {
    let body = "(i32.store8 (i32.const 1032) (i32.const 2)) \
                (i32.store (i32.const 1040) (i32.const 2048)) (i32.store (i32.const 1044) (i32.const 2)) \
                (i64.store (i32.const 2048) (i64.const 2)) (i64.store (i32.const 2056) (i64.const 1)) \
                (i32.const 1024)";
    assert_eq!(
        fault(body).await,
        RunError::BadResult("the kept ids do not rise".into())
    );
}

#[tokio::test]
async fn the_newest_message_must_stay() {
    let body = "(i32.store8 (i32.const 1032) (i32.const 2)) \
                (i32.store (i32.const 1040) (i32.const 2048)) (i32.store (i32.const 1044) (i32.const 1)) \
                (i32.const 1024)";
    let error = fault(body).await;
    assert_eq!(
        error,
        RunError::BadResult("the newest message (id 2) is not kept".into())
    );
}

#[tokio::test]
async fn more_ids_than_there_are_messages_are_not_even_looked_up() {
    let body = "(drop (memory.grow (i32.const 60))) (i32.store8 (i32.const 1032) (i32.const 2)) \
                (i32.store (i32.const 1040) (i32.const 8192)) \
                (i32.store (i32.const 1044) (i32.const 400000)) (i32.const 1024)";
    assert_eq!(
        fault(body).await,
        RunError::BadResult("it keeps 400000 messages, there are 3".into())
    );
}

#[tokio::test]
async fn a_huge_result_is_refused() {
    // A list of 8 million ids would be 64 MB on the host.
    let body = "(drop (memory.grow (i32.const 1000))) (i32.store8 (i32.const 1032) (i32.const 2)) \
                (i32.store (i32.const 1040) (i32.const 2048)) \
                (i32.store (i32.const 1044) (i32.const 8000000)) (i32.const 1024)";
    let error = fault(body).await;
    assert_eq!(error, RunError::Results { limit: 4 << 20 });
    assert_eq!(
        error.to_string(),
        "it hands over more at once than policies.limits.result_bytes = 4194304 bytes allows"
    );
}

#[tokio::test]
async fn an_error_of_its_own_is_a_fault_with_its_words() {
    // result<decision, string> with the error's pointer and length at 8 and 12.
    let body = "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store (i32.const 1032) (i32.const 600)) \
                (i32.store (i32.const 1036) (i32.const 14)) (i32.const 1024)";
    assert_eq!(
        fault(body).await,
        RunError::Refused("it will not do".into())
    );
}

/// Lines of policies, and the longest of them.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Message<'a>(&'a mut String);
        impl tracing::field::Visit for Message<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
                if field.name() == "message" {
                    *self.0 = format!("{value:?}");
                }
            }
        }
        if event.metadata().target() == "stent::policy" {
            let mut line = String::new();
            event.record(&mut Message(&mut line));
            self.0.lock().unwrap().push(line);
        }
    }
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut_and_changes_nothing_else() {
    let mut bench = Bench::new();
    // A thousand lines of 5000 bytes each, none of which is a character for a terminal.
    let body = "(loop (call $log (i32.const 1) (i32.const 2048) (i32.const 5000)) \
                (local.set $n (i32.add (local.get $n) (i32.const 1))) \
                (br_if 0 (i32.lt_u (local.get $n) (i32.const 1000)))) (i32.const 1024)";
    bench.put("noisy.wasm", &Guest::trimmer("noisy", body).core());
    bench.settings.trim.fail = Fail::Closed;
    let policies = bench.start();
    let heard = Lines::default();
    let subscriber = || tracing_subscriber::registry().with(heard.clone());
    // The guest runs on this thread.
    let listening = tracing::subscriber::set_default(subscriber());
    let trimmed = snapshot(&policies)
        .trim(&talk(&["a", "b", "c"]), None)
        .await
        .unwrap();
    drop(listening);
    assert_eq!(trimmed.kept, [0, 1, 2]);
    let lines = heard.0.lock().unwrap().clone();
    let allowed = bench.settings.limits.log_lines as usize;
    assert_eq!(lines.len(), allowed + 1, "{lines:?}");
    assert!(
        lines
            .iter()
            .all(|line| line.len() <= 1030 && !line.contains('\0'))
    );
    let last = &lines[allowed];
    assert_eq!(
        last,
        "policies.limits.log_lines = 20 reached, further lines are dropped"
    );
    // Nor do many requests, each with an instance of its own.
    let listening = tracing::subscriber::set_default(subscriber());
    for _ in 0..50 {
        snapshot(&policies).trim(&talk(&["a"]), None).await.unwrap();
    }
    drop(listening);
    let many = heard.0.lock().unwrap().len();
    // Ten requests' worth in ten seconds, and nobody knows how fast this machine is today.
    assert!((10..500).contains(&many), "{many} lines");
}

/// Each request of a policy that always fails is a fault, and not a line.
#[tokio::test]
async fn a_policy_that_always_fails_does_not_fill_the_log() {
    let mut bench = Bench::new();
    bench.settings.breaker.faults = 0;
    bench.put("bad.wasm", &Guest::trimmer("bad", "(unreachable)").core());
    let policies = bench.start();
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(lines.clone());
    let listening = tracing::subscriber::set_default(subscriber);
    for _ in 0..200 {
        snapshot(&policies).trim(&talk(&["a"]), None).await.unwrap();
    }
    drop(listening);
    let lines = lines.0.lock().unwrap();
    // One in ten seconds, and nobody knows how fast this machine is today.
    assert!((1..20).contains(&lines.len()), "{lines:?}");
    assert!(lines[0].starts_with("the trim policy bad failed: it trapped"));
}

/// It counts its calls in its memory, and refuses from the second one on.
#[tokio::test]
async fn nothing_that_a_policy_keeps_reaches_another_request() {
    let body = "(i32.store (i32.const 4096) (i32.add (i32.load (i32.const 4096)) (i32.const 1))) \
                (global.set $n (i32.add (global.get $n) (i32.const 1))) \
                (if (i32.gt_u (i32.add (i32.load (i32.const 4096)) (global.get $n)) (i32.const 2)) \
                (then (return (i32.const 5000)))) (i32.const 1024)";
    let guest = Guest::guard("counter", body).with("(global $n (mut i32) (i32.const 0))");
    // `refuse("it will not do")`
    let guest =
        guest.with(r#"(data (i32.const 5000) "\00\00\00\00\03\00\00\00\58\02\00\00\0e\00\00\00")"#);
    let mut bench = Bench::new();
    bench.settings.guard.fail = Fail::Closed;
    bench.put("g.wasm", &guest.core());
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Guard).name, "counter");
    // More than there are warm instances.
    for request in 0..40 {
        let verdict = snapshot(&policies).guard(&talk(&["Hello"])).await.unwrap();
        assert_eq!(verdict, Verdict::Allow, "request {request}");
    }
}

#[tokio::test]
async fn a_policy_that_faults_too_often_is_rolled_back() {
    let mut bench = Bench::new();
    bench.settings.breaker.faults = 3;
    bench.put("t.wasm", &super::guest::keeper("good"));
    let policies = bench.start();
    bench.put("t.wasm", &Guest::trimmer("bad", "(unreachable)").core());
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "bad");
    for _ in 0..3 {
        snapshot(&policies).trim(&talk(&["a"]), None).await.unwrap();
    }
    eventually("rolled back", || {
        (serving(&policies, Hook::Trim).name == "good").then_some(())
    });
    let (stage, reason) = eventually("listed", || rejected(&policies, "t.wasm"));
    assert_eq!(stage, "verify");
    assert!(reason.contains("3 faults within 60s"), "{reason}");
    let alarm = eventually("an alarm", || policies.alarms().pop());
    assert!(alarm.contains("the trim policy bad was rolled back"));
    let last = policies.audit(1).unwrap().pop().unwrap();
    assert_eq!(
        (last.by.as_str(), last.what.as_str()),
        ("breaker", "rolled-back")
    );
}

/// Writes down what it hears of faults.
#[derive(Clone, Default)]
struct Faults(Arc<Mutex<Vec<(Hook, &'static str)>>>);

impl Observer for Faults {
    fn faulted(&self, fault: &FaultFacts<'_>) {
        self.0.lock().unwrap().push((fault.hook, fault.kind));
    }
}

#[tokio::test]
async fn the_want_of_an_instance_is_a_fault_that_counts() {
    let mut bench = Bench::new();
    bench.settings.limits.warm = 0;
    bench.settings.limits.instances = 1;
    let faults = Faults::default();
    let policies = bench.watched_by(Arc::new(faults.clone())).unwrap();
    let snapshot = snapshot(&policies);
    // The only instance waits for the prompt to be built.
    snapshot.layout().await.unwrap();
    let trimmed = snapshot.trim(&talk(&["a"]), None).await.unwrap();
    assert_eq!(trimmed.kept, [0], "native code decides");
    assert_eq!(*faults.0.lock().unwrap(), [(Hook::Trim, "exhausted")]);
}
