//! How long the gateway waits before it believes what the folder says.

use std::time::{Duration, Instant};

use stent::policy::{Hook, State};

use super::guest::keeper;
use super::support::{Bench, audited, eventually, plugin, rejected, serving};

#[tokio::test]
async fn a_deleted_file_serves_until_its_grace_is_over() {
    let mut bench = Bench::new();
    bench.settings.grace = Duration::from_secs(1);
    bench.put("mine.wasm", &keeper("mine"));
    let policies = bench.start();
    let deleted = Instant::now();
    std::fs::remove_file(bench.path("mine.wasm")).unwrap();
    eventually("built-in", || {
        (serving(&policies, Hook::Trim).state == State::Builtin).then_some(())
    });
    assert!(deleted.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn deleting_and_writing_again_is_one_change() {
    let mut bench = Bench::new();
    bench.settings.grace = Duration::from_secs(600);
    bench.put("mine.wasm", &keeper("mine"));
    let policies = bench.start();
    std::fs::remove_file(bench.path("mine.wasm")).unwrap();
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "mine");
    bench.put("mine.wasm", &keeper("other"));
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "other");
    // The same file again is no change at all.
    std::fs::remove_file(bench.path("mine.wasm")).unwrap();
    policies.reload().await.unwrap();
    bench.put("mine.wasm", &keeper("other"));
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "other");
    let told = audited(&policies);
    let whats: Vec<_> = told.iter().map(|(_, what, _)| &**what).collect();
    assert_eq!(whats, ["swapped", "swapped"]);
}

#[tokio::test]
async fn half_a_file_that_does_not_grow_is_rejected_and_serves_once_it_is_whole() {
    let bench = Bench::new();
    let policies = bench.start();
    let bytes = plugin("trim-exchanges");
    let written = Instant::now();
    std::fs::write(bench.path("half.wasm"), &bytes[..bytes.len() / 2]).unwrap();
    let (stage, reason) = eventually("rejected", || rejected(&policies, "half.wasm"));
    assert!(written.elapsed() >= Duration::from_secs(2));
    assert_eq!(stage, "contract");
    assert!(
        reason.contains("is not a whole WebAssembly module"),
        "{reason}"
    );
    std::fs::write(bench.path("half.wasm"), &bytes).unwrap();
    eventually("live", || {
        (serving(&policies, Hook::Trim).state == State::Live).then_some(())
    });
}
