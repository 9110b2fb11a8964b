//! What a file is rejected for may lie beside it: it is looked into again when that changes. And
//! the folder itself may be replaced.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};
use stent::policy::{Hook, Settings, State};

use super::guest::{Guest, keeper, wit};
use super::support::{Bench, cases, eventually, rejected, serving, sign};

#[tokio::test]
async fn a_signature_may_come_after_the_file() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let mut bench = Bench::new();
    bench.settings.trusted_keys = vec![hex::encode(key.verifying_key().to_bytes())];
    let policies = bench.start();
    bench.put("t.wasm", &keeper("signed"));
    eventually("rejected", || rejected(&policies, "t.wasm"));
    sign(&bench, "t.wasm", &key);
    eventually("live", || {
        (serving(&policies, Hook::Trim).name == "signed").then_some(())
    });
}

#[tokio::test]
async fn mended_cases_let_the_same_file_in() {
    let bench = Bench::new();
    std::fs::write(bench.path("t.cases.json"), cases("[1]")).unwrap();
    bench.put("t.wasm", &keeper("keeper"));
    let policies = bench.start();
    assert_eq!(rejected(&policies, "t.wasm").unwrap().0, "cases");
    std::fs::write(bench.path("t.cases.json"), cases("[0, 1]")).unwrap();
    eventually("live", || {
        (serving(&policies, Hook::Trim).name == "keeper").then_some(())
    });
}

#[tokio::test]
async fn configured_cases_are_asked_and_a_reload_asks_them_again() {
    let mut bench = Bench::new();
    let file = bench.root.path().join("corpus.json");
    std::fs::write(&file, cases("[1]")).unwrap();
    bench.settings.trim.cases = Some(file.clone());
    bench.put("t.wasm", &keeper("keeper"));
    let policies = bench.start();
    let (stage, reason) = rejected(&policies, "t.wasm").unwrap();
    assert_eq!(stage, "cases");
    assert!(reason.contains("corpus.json"), "{reason}");
    // Nothing in the folder tells of it.
    std::fs::write(&file, cases("[0, 1]")).unwrap();
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "keeper");
}

#[tokio::test]
async fn an_empty_folder_in_its_place_is_no_deletion() {
    let bench = Bench::new();
    bench.put("mine.wasm", &keeper("mine"));
    let policies = bench.start();
    let (dir, away) = (&bench.settings.dir, bench.root.path().join("away"));
    // What an unmounted volume leaves: the folder below it.
    std::fs::rename(dir, &away).unwrap();
    std::fs::create_dir(dir).unwrap();
    let alarm = eventually("an alarm", || {
        let mut alarms = policies.alarms().into_iter();
        alarms.find(|it| it.contains("is another folder than before and holds no policy"))
    });
    assert!(alarm.contains("what serves goes on serving"), "{alarm}");
    tokio::time::sleep(2 * bench.settings.grace).await;
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "mine");
    // It holds the file again, and is watched.
    std::fs::rename(away.join("mine.wasm"), bench.path("mine.wasm")).unwrap();
    eventually("no alarm", || policies.alarms().is_empty().then_some(()));
    bench.put("mine.wasm", &keeper("other"));
    eventually("other", || {
        (serving(&policies, Hook::Trim).name == "other").then_some(())
    });
    std::fs::remove_file(bench.path("mine.wasm")).unwrap();
    eventually("built-in", || {
        (serving(&policies, Hook::Trim).state == State::Builtin).then_some(())
    });
}

#[tokio::test]
async fn a_folder_that_was_replaced_between_two_looks_is_watched() {
    let mut bench = Bench::new();
    let real = |n: u32| bench.root.path().join(format!("release-{n}"));
    for (n, name) in [(1, "one"), (2, "two")] {
        std::fs::create_dir(real(n)).unwrap();
        std::fs::write(real(n).join("t.wasm"), keeper(name)).unwrap();
    }
    let link = bench.root.path().join("current");
    std::os::unix::fs::symlink(real(1), &link).unwrap();
    bench.settings.dir = link.clone();
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Trim).name, "one");
    let next = bench.root.path().join("next");
    std::os::unix::fs::symlink(bench.root.path().join("release-2"), &next).unwrap();
    std::fs::rename(next, link).unwrap();
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "two");
    // Within ten seconds, and the next rescan comes after thirty.
    assert_eq!(bench.settings.rescan, Duration::from_secs(30));
    bench.put("t.wasm", &keeper("three"));
    eventually("three", || {
        (serving(&policies, Hook::Trim).name == "three").then_some(())
    });
}

#[tokio::test]
async fn another_patch_version_of_the_contract_is_served() {
    let bench = Bench::new();
    let newer = Guest {
        wit: Some(wit().replace("policy@0.1.0", "policy@0.1.1")),
        ..Guest::trimmer("t", "(i32.const 1024)")
    };
    bench.put("t.wasm", &newer.versioned("0.1.1"));
    let policies = bench.start();
    let listed = serving(&policies, Hook::Trim);
    assert_eq!(listed.state, State::Live, "{:?}", policies.list());
}

const BLOCK: &str = "(if (i32.eq (local.get $max) (i32.const 7)) (then (local.set $low (i32.add (local.get $low) (local.get $per)))))";

#[tokio::test]
async fn the_compilers_processor_time_is_limited_and_meanwhile_the_list_says_compiling() {
    let mut bench = Bench::new();
    bench.settings.limits.compile_cpu = Duration::from_secs(1);
    let policies = bench.start();
    let body = format!("{}(i32.const 1024)", BLOCK.repeat(250_000));
    bench.put("bomb.wasm", &Guest::trimmer("bomb", &body).core());
    eventually("compiling", || {
        let mut all = policies.list().0.into_iter();
        all.find(|l| l.name == "bomb" && l.state == State::Compiling)
    });
    policies.reload().await.unwrap();
    let (stage, reason) = rejected(&policies, "bomb.wasm").unwrap();
    assert_eq!(stage, "compile");
    assert!(
        reason.contains("policies.limits.compile_cpu = 1s"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_pin_of_every_hook_spares_the_compiler() {
    let mut bench = Bench::new();
    bench.compiler = "/nonexistent".into();
    for hook in Hook::ALL {
        bench.hook(hook).pin = Some(hex::encode(Sha256::digest(b"another")));
    }
    let policies = bench.start();
    bench.put("t.wasm", &keeper("t"));
    policies.reload().await.unwrap();
    let (stage, reason) = rejected(&policies, "t.wasm").unwrap();
    assert_eq!(stage, "verify");
    assert!(
        reason.contains("every hook is pinned to another file"),
        "{reason}"
    );
}

#[test]
fn settings_that_cannot_work_are_refused_before_anything_starts() {
    let check = |settings: Settings| settings.check().unwrap_err();
    let one = Settings {
        keep: 1,
        ..Settings::default()
    };
    assert!(check(one).contains("policies.keep: 1, expected at least 2"));
    // Neither 2 as y nor the neutral element can verify anything.
    for key in ["02", "01"] {
        let key = format!("{key}{}", "00".repeat(31));
        let settings = Settings {
            trusted_keys: vec![key.clone()],
            ..Settings::default()
        };
        let error = check(settings);
        assert!(
            error.contains(&key) && error.contains("no point of the curve"),
            "{error}"
        );
    }
}
