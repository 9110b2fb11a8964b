//! What survives: revisions with their numbers, compiled code, who serves a hook that two files
//! claim, and a rollback; and what a rollback does when not all is left.

use std::fs;

use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};
use stent::policy::{Hook, State};

use super::guest::{Guest, keeper};
use super::support::{Bench, eventually, rejected, serving, sign, snapshot, talk};

#[tokio::test]
async fn revisions_keep_their_numbers_and_say_why_they_were_replaced() {
    let bench = Bench::new();
    bench.put("t.wasm", &keeper("one"));
    let policies = bench.start();
    bench.put("t.wasm", &keeper("two"));
    policies.reload().await.unwrap();
    let before = policies.history(Hook::Trim).await.unwrap();
    let why = before[0].replaced.clone().unwrap();
    assert!(
        why.starts_with("swapped: ") && why.ends_with("t.wasm"),
        "{why}"
    );
    assert!(before[0].until_ms.unwrap() >= before[0].at_ms);
    assert!(before[1].replaced.is_none());
    drop(policies);

    let policies = bench.start();
    let after = policies.history(Hook::Trim).await.unwrap();
    let same = |e: &stent::policy::Entry| (e.number, e.at_ms, e.until_ms, e.replaced.clone());
    assert_eq!(
        before.iter().map(same).collect::<Vec<_>>(),
        after.iter().map(same).collect::<Vec<_>>()
    );
    assert_eq!(serving(&policies, Hook::Trim).revision, 2);
    policies.rollback(Hook::Trim).await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).revision, 1);
    let last = policies.history(Hook::Trim).await.unwrap();
    assert_eq!(last.iter().map(|e| e.number).collect::<Vec<_>>(), [2, 1]);
    let why = last[0].replaced.clone().unwrap();
    assert!(why.contains("rolled back, asked for"), "{why}");
    bench.put("t.wasm", &keeper("three"));
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).revision, 3);
}

#[tokio::test]
async fn what_was_compiled_is_not_compiled_again() {
    let mut bench = Bench::new();
    bench.put("t.wasm", &keeper("one"));
    assert_eq!(serving(&bench.start(), Hook::Trim).name, "one");
    bench.compiler = "/nonexistent".into();
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Trim).name, "one");
    bench.put("t.wasm", &keeper("two"));
    policies.reload().await.unwrap();
    let (stage, reason) = rejected(&policies, "t.wasm").unwrap();
    assert_eq!(stage, "compile", "{reason}");
}

#[tokio::test]
async fn of_two_files_the_one_that_served_last_serves_again() {
    let bench = Bench::new();
    bench.put("b.wasm", &keeper("live"));
    let policies = bench.start();
    bench.put("a.wasm", &keeper("newcomer"));
    policies.reload().await.unwrap();
    assert_eq!(rejected(&policies, "a.wasm").unwrap().0, "swap");
    drop(policies);
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Trim).name, "live");
    assert_eq!(rejected(&policies, "a.wasm").unwrap().0, "swap");
}

#[tokio::test]
async fn the_revision_of_a_rollback_outlives_the_bad_file() {
    let bench = Bench::new();
    bench.put("t.wasm", &keeper("good"));
    let policies = bench.start();
    bench.put("t.wasm", &keeper("bad"));
    policies.reload().await.unwrap();
    policies.rollback(Hook::Trim).await.unwrap();
    fs::remove_file(bench.path("t.wasm")).unwrap();
    eventually("off the list", || {
        rejected(&policies, "t.wasm").is_none().then_some(())
    });
    assert_eq!(serving(&policies, Hook::Trim).name, "good");
    // It is given up after the grace period, which is over when another file has come and gone.
    bench.put("g.wasm", &Guest::guard("g", "(i32.const 1024)").core());
    policies.reload().await.unwrap();
    fs::remove_file(bench.path("g.wasm")).unwrap();
    eventually("the guard is gone", || {
        (serving(&policies, Hook::Guard).state == State::Builtin).then_some(())
    });
    assert_eq!(serving(&policies, Hook::Trim).name, "good");
    drop(policies);
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Trim).name, "good");
    // Another rollback ends it.
    policies.rollback(Hook::Trim).await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).state, State::Builtin);
    drop(policies);
    assert_eq!(serving(&bench.start(), Hook::Trim).state, State::Builtin);
}

/// What a file must have to serve, a revision of the history must have as well: a key may have been
/// taken away, or a pin set, since it served.
#[tokio::test]
async fn a_rollback_asks_again_for_signature_and_pin() {
    let [old, new] = [7, 8].map(|n| SigningKey::from_bytes(&[n; 32]));
    let public = |key: &SigningKey| hex::encode(key.verifying_key().to_bytes());
    let pin = hex::encode(Sha256::digest(keeper("two")));
    let nothing = "";
    for (keys, pin, left, why) in [
        (vec![&old, &new], None, Some("one"), nothing),
        (vec![&new], None, None, "is not a signature of this file"),
        (
            vec![&old, &new],
            Some(pin),
            None,
            "policies.trim.pin allows only",
        ),
    ] {
        let mut bench = Bench::new();
        bench.settings.trusted_keys = vec![public(&old), public(&new)];
        let policies = bench.start();
        for (name, key) in [("one", &old), ("two", &new)] {
            bench.put("t.wasm", &keeper(name));
            sign(&bench, "t.wasm", key);
            policies.reload().await.unwrap();
            assert_eq!(serving(&policies, Hook::Trim).name, name);
        }
        drop(policies);
        bench.settings.trusted_keys = keys.into_iter().map(public).collect();
        bench.settings.trim.pin = pin;
        let policies = bench.start();
        assert_eq!(serving(&policies, Hook::Trim).name, "two");
        policies.rollback(Hook::Trim).await.unwrap();
        let now = serving(&policies, Hook::Trim);
        match left {
            Some(name) => assert_eq!(now.name, name),
            None => assert_eq!(now.state, State::Builtin),
        }
        let last = policies.audit(1).unwrap().pop().unwrap();
        assert!(last.reason.contains(why), "{}", last.reason);
    }
}

#[test]
fn a_damaged_history_keeps_the_gateway_from_starting_and_says_what_to_do() {
    let bench = Bench::new();
    drop(bench.start());
    let file = bench.root.path().join("data/policies/history.json");
    fs::write(&file, "{").unwrap();
    let error = bench.try_start().err().unwrap().to_string();
    assert!(
        error.contains("history.json: found no policy history (")
            && error.contains("move it away to start without revisions"),
        "{error}"
    );
    fs::remove_file(&file).unwrap();
    bench.start();
}

/// Takes a revision's source and compiled code away.
fn lose(bench: &Bench, name: &'static str) {
    let sha256 = hex::encode(Sha256::digest(keeper(name)));
    for folder in ["sources", "compiled"] {
        let folder = bench.root.path().join("data/policies").join(folder);
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap();
            if file.starts_with(&sha256) {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn the_breaker_passes_over_revisions_that_cannot_return() {
    for (lost, left) in [(&["two"][..], Some("one")), (&["two", "one"], None)] {
        let mut bench = Bench::new();
        bench.settings.breaker.faults = 3;
        let policies = bench.start();
        for name in ["one", "two"] {
            bench.put("t.wasm", &keeper(name));
            policies.reload().await.unwrap();
        }
        bench.put("t.wasm", &Guest::trimmer("bad", "(unreachable)").core());
        policies.reload().await.unwrap();
        assert_eq!(serving(&policies, Hook::Trim).name, "bad");
        lost.iter().for_each(|name| lose(&bench, name));
        for _ in 0..3 {
            snapshot(&policies).trim(&talk(&["a"]), None).await.unwrap();
        }
        eventually("rolled back", || {
            let now = serving(&policies, Hook::Trim);
            match left {
                Some(name) => now.name == name,
                None => now.state == State::Builtin,
            }
            .then_some(())
        });
        let last = eventually("audited", || {
            let last = policies.audit(1).unwrap().pop()?;
            (last.by == "breaker").then_some(last)
        });
        assert!(
            last.reason.contains("revision 2 cannot serve again"),
            "{}",
            last.reason
        );
    }
}

/// While a process lets its last requests finish, its successor alone keeps folder and history.
#[tokio::test]
async fn a_process_that_was_replaced_writes_nothing_more() {
    let bench = Bench::new();
    bench.put("t.wasm", &keeper("one"));
    let old = bench.start();
    let new = bench.start();
    old.stand_down();
    eventually("no reconciler", || {
        futures::executor::block_on(old.history(Hook::Trim)).err()
    });
    bench.put("t.wasm", &keeper("two"));
    new.reload().await.unwrap();
    assert!(old.reload().await.is_err());
    assert_eq!(serving(&old, Hook::Trim).name, "one");
    snapshot(&old).trim(&talk(&["a"]), None).await.unwrap();
    assert_eq!(serving(&new, Hook::Trim).name, "two");
    let told = new.audit(10).unwrap();
    let two: Vec<_> = told.iter().filter(|c| c.to != told[0].to).collect();
    assert_eq!(two.len(), 1, "it is written down once: {told:?}");
}
