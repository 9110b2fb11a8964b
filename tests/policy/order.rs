//! What the configuration says of files: which of several serves a hook, and which only runs beside
//! what serves.

use std::sync::Arc;

use stent::policy::{Hook, Policies, Settings, State};

use super::cli::Desk;
use super::guest::{Guest, keeper};
use super::support::{Bench, audited, rejected, serving, shadow, snapshot, talk};

const KEEP: &str = "(i32.const 1024)";

fn both(name: &'static str) -> Vec<u8> {
    let trimmer = Guest::trimmer(name, KEEP);
    trimmer.and(Guest::guard(name, KEEP)).core()
}

#[tokio::test]
async fn of_two_files_the_one_that_is_named_serves() {
    let mut bench = Bench::new();
    bench.settings.trim.file = Some("b.wasm".into());
    bench.put("a.wasm", &keeper("first"));
    bench.put("b.wasm", &keeper("named"));
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Trim).name, "named");
    let (stage, reason) = rejected(&policies, "a.wasm").unwrap();
    assert_eq!(stage, "swap");
    assert_eq!(
        reason,
        "serves the trim hook, which policies.trim.file gives to b.wasm alone: name a.wasm there, \
         or remove it"
    );
    // Not for want of the other one either.
    std::fs::remove_file(bench.path("b.wasm")).unwrap();
    super::support::eventually("built-in", || {
        (serving(&policies, Hook::Trim).state == State::Builtin).then_some(())
    });
    policies.reload().await.unwrap();
    assert_eq!(rejected(&policies, "a.wasm").unwrap().0, "swap");
    // What serves another hook as well goes on with that.
    bench.put("b.wasm", &keeper("named"));
    bench.put("a.wasm", &both("both"));
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "named");
    assert_eq!(serving(&policies, Hook::Guard).name, "both");
    assert_eq!(rejected(&policies, "a.wasm"), None);
}

#[test]
fn a_dry_run_knows_the_order() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("policies")).unwrap();
    desk.put("policies/a.wasm", keeper("first"));
    desk.put("policies/b.wasm", keeper("named"));
    let dry = |file: &str, set: &str| desk.run(&["dry-run", file, "--set", set]);
    let told = dry("policies/a.wasm", "policies.trim.file=b.wasm").fails("does not pass swap");
    assert!(
        told.contains("policies.trim.file gives to b.wasm alone: name a.wasm there"),
        "{told}"
    );
    dry("policies/b.wasm", "policies.trim.file=b.wasm").ok();
    let told = dry("policies/b.wasm", "policies.keep=5").fails("does not pass swap");
    assert!(
        told.contains("a.wasm serves already") && told.contains("policies.trim.file"),
        "{told}"
    );
    dry("policies/b.wasm", "policies.trim.shadow=b.wasm").ok();
    let told = dry("policies/b.wasm", "policies.guard.shadow=b.wasm").fails("does not pass swap");
    assert!(
        told.contains("is named by policies.guard.shadow, and serves only trim"),
        "{told}"
    );
}

/// A candidate by configuration: it serves nobody until it is promoted.
fn candidate() -> (Bench, Arc<Policies>) {
    let mut bench = Bench::new();
    bench.settings.trim.shadow = Some("next.wasm".into());
    bench.put("live.wasm", &keeper("live"));
    bench.put("next.wasm", &keeper("next"));
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Trim).name, "live");
    assert_eq!(shadow(&policies, Hook::Trim).unwrap().name, "next");
    (bench, policies)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_by_configuration_is_compared_and_promoted_for_good() {
    let (bench, policies) = candidate();
    snapshot(&policies).trim(&talk(&["a"]), None).await.unwrap();
    super::support::eventually("compared", || {
        let told = shadow(&policies, Hook::Trim)?.reason?;
        told.contains("1 same, 0 different").then_some(())
    });
    policies.promote(Hook::Trim).await.unwrap();
    let serves = |policies: &Arc<Policies>, name: &str| {
        assert_eq!(serving(policies, Hook::Trim).name, name);
        assert!(shadow(policies, Hook::Trim).is_none());
    };
    serves(&policies, "next");
    let there = |name: &str| assert!(bench.path(name).exists(), "{name}");
    there("next.promoted.wasm");
    there("live.wasm.retired");
    assert!(!bench.path("next.wasm").exists());
    let last = audited(&policies).pop().unwrap();
    assert_eq!(last, ("api".into(), "promoted".into(), Hook::Trim));
    drop(policies);
    let policies = bench.start();
    serves(&policies, "next");
    // Its old name is free for the next candidate.
    bench.put("next.wasm", &keeper("third"));
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "next");
    assert_eq!(shadow(&policies, Hook::Trim).unwrap().name, "third");
    policies.promote(Hook::Trim).await.unwrap();
    serves(&policies, "third");
    there("next.promoted.wasm.retired");
    drop(policies);
    serves(&bench.start(), "third");
}

#[tokio::test]
async fn a_promoted_file_gets_the_name_that_the_order_asks_for() {
    for name in ["next.wasm", "other.shadow.wasm"] {
        let mut bench = Bench::new();
        bench.settings.trim.file = Some("t.wasm".into());
        bench.settings.trim.shadow = Some("next.wasm".into());
        bench.put("t.wasm", &keeper("live"));
        bench.put(name, &keeper("next"));
        let policies = bench.start();
        assert_eq!(serving(&policies, Hook::Trim).name, "live");
        policies.promote(Hook::Trim).await.unwrap();
        assert_eq!(serving(&policies, Hook::Trim).name, "next");
        assert!(bench.path("t.wasm.retired").exists() && !bench.path(name).exists());
        drop(policies);
        assert_eq!(serving(&bench.start(), Hook::Trim).name, "next");
    }
}

#[tokio::test]
async fn a_promotion_that_the_order_does_not_allow_says_why() {
    let mut bench = Bench::new();
    bench.settings.trim.file = Some("t.wasm".into());
    bench.settings.guard.file = Some("g.wasm".into());
    bench.put("next.shadow.wasm", &both("next"));
    let policies = bench.start();
    let error = policies.promote(Hook::Trim).await.unwrap_err().to_string();
    assert!(
        error.contains("policies.guard.file = \"g.wasm\" and policies.trim.file = \"t.wasm\""),
        "{error}"
    );
    assert!(bench.path("next.shadow.wasm").exists());
    drop(policies);
    let mut bench = Bench::new();
    bench.settings.guard.shadow = Some("next.wasm".into());
    bench.put("next.shadow.wasm", &keeper("next"));
    let policies = bench.start();
    let error = policies.promote(Hook::Trim).await.unwrap_err().to_string();
    assert!(error.contains("which makes a file a shadow"), "{error}");
}

#[test]
fn names_that_cannot_be_meant_are_refused() {
    let check = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.check().unwrap_err()
    };
    for name in ["sub/t.wasm", "t.txt", ".t.wasm", ""] {
        let mut settings = Settings::default();
        settings.trim.file = Some(name.into());
        let error = settings.check().unwrap_err();
        let start = format!("policies.trim.file: {name:?}, expected the name of a file in");
        assert!(error.starts_with(&start), "{error}");
    }
    let error = check(|s| s.guard.shadow = Some("/t.wasm".into()));
    assert!(error.starts_with("policies.guard.shadow: "), "{error}");
    let error = check(|s| s.trim.file = Some("t.shadow.wasm".into()));
    assert!(error.contains("its name ends in .shadow.wasm"), "{error}");
    let error = check(|s| {
        s.trim.file = Some("t.wasm".into());
        s.guard.shadow = Some("t.wasm".into());
    });
    assert!(
        error
            .contains("policies.trim.file: \"t.wasm\" is a shadow, policies.guard.shadow names it"),
        "{error}"
    );
}
