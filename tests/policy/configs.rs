//! A policy's config is a part of what serves: a rollback brings it back, a breaker tells it apart.

use stent::policy::{Hook, Policies, State};

use super::guest::{Guest, NO, TRAP, keeper};
use super::support::{Bench, eventually, rejected, serving, snapshot, talk};

const KEEP: &str = "(i32.const 1024)";
/// Remembers how long its config is.
const MEASURE: &str = "(global.set $len (local.get 1)) (i32.const 512)";
const LEN: &str = "(global $len (mut i32) (i32.const 0))";

async fn configure(policies: &Policies, json: &str) {
    let config = serde_json::from_str(json).unwrap();
    policies.configure(Hook::Trim, config).await.unwrap();
}

/// A config that only the file's policy knows: the bundled one stands by with its defaults.
#[tokio::test]
async fn a_files_own_config_keeps_no_gateway_from_starting() {
    let mut bench = Bench::new();
    bench.settings.trim.config = serde_json::from_str(r#"{"messages": 5}"#).unwrap();
    bench.put("t.wasm", &keeper("mine"));
    let policies = bench.start();
    named(&policies, "mine", 1);
    std::fs::remove_file(bench.path("t.wasm")).unwrap();
    eventually("built-in", || {
        (serving(&policies, Hook::Trim).state == State::Builtin).then_some(())
    });
    assert_eq!(serving(&policies, Hook::Trim).name, "trim-exchanges");
    trim(&policies).await;
    drop(policies);
    // Where no file serves the hook, it is a mistake as before.
    bench.put("g.wasm", &Guest::guard("g", KEEP).core());
    let error = bench.try_start().err().unwrap().to_string();
    assert!(
        error.contains("policies.trim.config") && error.contains("messages"),
        "{error}"
    );
}

async fn trim(policies: &Policies) {
    let trimmed = snapshot(policies).trim(&talk(&["a"]), None).await;
    assert_eq!(trimmed.unwrap().kept, [0]);
}

fn named(policies: &Policies, name: &str, revision: u64) {
    let listed = serving(policies, Hook::Trim);
    assert_eq!((listed.name.as_str(), listed.revision), (name, revision));
}

/// It takes the empty config only.
fn strict(name: &'static str) -> Vec<u8> {
    let refuse = "(if (result i32) (i32.gt_u (local.get 1) (i32.const 2)) \
                  (then (i32.const 528)) (else (i32.const 512)))";
    assert_eq!(NO, "(i32.const 528)");
    Guest::trimmer(name, KEEP).configure(refuse).core()
}

#[tokio::test]
async fn a_rollback_brings_the_config_back_over_a_restart_too() {
    let mut bench = Bench::new();
    bench.put("t.wasm", &strict("one"));
    let policies = bench.start();
    bench.put("t.wasm", &keeper("two"));
    policies.reload().await.unwrap();
    configure(&policies, r#"{"any": 1}"#).await;
    named(&policies, "two", 3);
    // The same file with the config before.
    policies.rollback(Hook::Trim).await.unwrap();
    named(&policies, "two", 2);
    let (stage, reason) = eventually("listed", || rejected(&policies, "t.wasm"));
    assert_eq!(stage, "verify");
    assert!(
        reason.contains("was rolled back with this config (asked for)"),
        "{reason}"
    );
    // The file before, which today's config would keep out.
    policies.rollback(Hook::Trim).await.unwrap();
    named(&policies, "one", 1);
    drop(policies);
    let config = serde_json::from_str(r#"{"any": 1}"#).unwrap();
    bench.settings.trim.config = config;
    bench.settings.trim.bundled = Some("none".into());
    let policies = bench.start();
    named(&policies, "one", 1);
}

#[tokio::test]
async fn another_config_lets_a_rolled_back_one_serve_again() {
    let bench = Bench::new();
    bench.put("t.wasm", &keeper("two"));
    let policies = bench.start();
    configure(&policies, r#"{"any": 1}"#).await;
    policies.rollback(Hook::Trim).await.unwrap();
    named(&policies, "two", 1);
    configure(&policies, r#"{"any": 2}"#).await;
    named(&policies, "two", 3);
    policies.reload().await.unwrap();
    assert_eq!(rejected(&policies, "t.wasm"), None);
    assert_eq!(serving(&policies, Hook::Trim).state, State::Live);
}

/// Requests that began with a bad config fault after the config was mended.
#[tokio::test]
async fn faults_of_an_old_config_roll_no_mended_one_back() {
    let mut bench = Bench::new();
    bench.settings.breaker.faults = 3;
    bench.settings.trim.bundled = Some("none".into());
    let body = format!("(if (i32.eq (global.get $len) (i32.const 2)) (then {TRAP})) {KEEP}");
    let guest = Guest::trimmer("t", &body).configure(MEASURE).with(LEN);
    bench.put("t.wasm", &guest.core());
    let policies = bench.start();
    let old = [0; 3].map(|_| snapshot(&policies));
    configure(&policies, r#"{"any": 1}"#).await;
    for snapshot in &old {
        snapshot.trim(&talk(&["a"]), None).await.unwrap();
        assert!(snapshot.faulted());
    }
    policies.reload().await.unwrap();
    named(&policies, "t", 2);
    trim(&policies).await;
    assert_eq!(policies.alarms(), Vec::<String>::new());
}
