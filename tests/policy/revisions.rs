//! History, rollback, pins, signatures, shadows, configuration.

use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use stent::policy::{Hook, State};

use super::guest::{Guest, keeper};
use super::support::{Bench, eventually, plugin, rejected, serving, snapshot, talk};

#[tokio::test]
async fn a_rollback_holds_over_a_restart_until_the_file_changes() {
    let bench = Bench::new();
    bench.put("t.wasm", &keeper("one"));
    let policies = bench.start();
    bench.put("t.wasm", &keeper("two"));
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).revision, 2);
    policies.rollback(Hook::Trim).await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "one");
    drop(policies);

    let policies = bench.start();
    assert_eq!(
        serving(&policies, Hook::Trim).name,
        "one",
        "{:?}",
        policies.list()
    );
    assert!(
        rejected(&policies, "t.wasm")
            .unwrap()
            .1
            .contains("was rolled back (asked for)")
    );
    bench.put("t.wasm", &keeper("three"));
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "three");

    let names: Vec<_> = policies
        .history(Hook::Trim)
        .await
        .unwrap()
        .into_iter()
        .map(|e| e.name)
        .collect();
    assert_eq!(names, ["two", "one", "three"]);
    let changes: Vec<_> = policies
        .audit(10)
        .unwrap()
        .into_iter()
        .map(|c| c.what)
        .collect();
    assert_eq!(
        changes,
        [
            "swapped",
            "swapped",
            "rolled-back",
            "rolled-back",
            "swapped"
        ]
    );
}

#[tokio::test]
async fn the_first_policy_rolls_back_to_the_built_in_one() {
    let bench = Bench::new();
    let policies = bench.start();
    let error = policies.rollback(Hook::Trim).await.unwrap_err().to_string();
    assert!(error.contains("nothing served before it"), "{error}");
    bench.put("t.wasm", &keeper("one"));
    policies.reload().await.unwrap();
    policies.rollback(Hook::Trim).await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).state, State::Builtin);
}

#[tokio::test]
async fn only_the_pinned_file_serves() {
    let mut bench = Bench::new();
    bench.settings.trim.pin = Some(hex::encode(Sha256::digest(keeper("right"))));
    bench.settings.trim.required = true;
    let policies = bench.start();
    assert!(
        policies
            .ready()
            .unwrap_err()
            .contains("policies.trim.required")
    );
    bench.put("t.wasm", &keeper("wrong"));
    policies.reload().await.unwrap();
    let (stage, reason) = rejected(&policies, "t.wasm").unwrap();
    assert!(
        stage == "verify" && reason.contains("policies.trim.pin allows only"),
        "{reason}"
    );
    bench.put("t.wasm", &keeper("right"));
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "right");
    policies.ready().unwrap();
}

#[tokio::test]
async fn with_trusted_keys_only_signed_files_serve() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let mut bench = Bench::new();
    bench.settings.trusted_keys = vec![hex::encode(key.verifying_key().to_bytes())];
    let policies = bench.start();
    let bytes = keeper("signed");
    bench.put("t.wasm", &bytes);
    policies.reload().await.unwrap();
    assert!(
        rejected(&policies, "t.wasm")
            .unwrap()
            .1
            .contains("t.wasm.sig: No such file")
    );
    std::fs::write(
        bench.path("u.wasm.sig"),
        hex::encode(key.sign(b"other").to_bytes()),
    )
    .unwrap();
    bench.put("u.wasm", &bytes);
    policies.reload().await.unwrap();
    assert!(
        rejected(&policies, "u.wasm")
            .unwrap()
            .1
            .contains("not a signature of this file")
    );
    std::fs::write(
        bench.path("v.wasm.sig"),
        hex::encode(key.sign(&bytes).to_bytes()),
    )
    .unwrap();
    bench.put("v.wasm", &bytes);
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "signed");
}

#[tokio::test]
async fn a_shadow_is_compared_and_promoted() {
    let bench = Bench::new();
    bench.put("live.wasm", &keeper("live"));
    // Keeps the newest message only.
    let newest = "(i32.store8 (i32.const 1032) (i32.const 1)) \
                  (i64.store (i32.const 1040) (i64.const 2)) (i32.const 1024)";
    bench.put("next.shadow.wasm", &Guest::trimmer("next", newest).core());
    let policies = bench.start();
    let trimmed = snapshot(&policies)
        .trim(&talk(&["a", "b", "c"]), None)
        .await
        .unwrap();
    assert_eq!(trimmed.kept, [0, 1, 2], "a shadow touches no answer");
    let shadow = || {
        policies
            .list()
            .0
            .into_iter()
            .find(|l| l.state == State::Shadow)
    };
    for _ in 0..500 {
        if shadow().unwrap().reason.unwrap().contains("1 different") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(
        shadow()
            .unwrap()
            .reason
            .unwrap()
            .contains("0 same, 1 different"),
        "{:?}",
        shadow()
    );
    policies.promote(Hook::Trim).await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "next");
    assert!(shadow().is_none());
    assert!(bench.path("live.wasm.retired").exists() && bench.path("next.wasm").exists());
}

#[tokio::test]
async fn another_config_is_another_generation_or_nothing() {
    let bench = Bench::new();
    let policies = bench.start();
    let before = snapshot(&policies);
    let config = |json: &str| serde_json::from_str(json).unwrap();
    let error = policies
        .configure(Hook::Trim, config(r#"{"no_such_key": 1}"#))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no_such_key"), "{error}");
    assert_eq!(policies.generation(), before.generation());
    policies
        .configure(Hook::Trim, config(r#"{"exchanges": 1}"#))
        .await
        .unwrap();
    let after = snapshot(&policies);
    assert_ne!(before.identity(), after.identity());
    let messages = talk(&["1", "2", "3", "4", "5", "6", "7"]);
    let kept = |t: stent::policy::Trimmed| t.kept.len();
    let (old, new) = (
        before.trim(&messages, None).await,
        after.trim(&messages, None).await,
    );
    assert!(kept(old.unwrap()) > kept(new.unwrap()));
}

#[tokio::test]
async fn a_wrong_config_or_name_keeps_the_gateway_from_starting() {
    let mut bench = Bench::new();
    bench
        .settings
        .trim
        .config
        .insert("no_such_key".into(), 1.into());
    let error = bench.try_start().err().unwrap().to_string();
    assert!(
        error.contains("trim-exchanges") && error.contains("no_such_key"),
        "{error}"
    );
    bench.settings.trim.config.clear();
    bench.settings.guard.bundled = Some("nobody".into());
    let error = bench.try_start().err().unwrap().to_string();
    assert!(
        error.contains("policies.guard.bundled: \"nobody\" is not a bundled policy"),
        "{error}"
    );
}

#[tokio::test]
async fn a_component_is_taken_as_well_as_a_core_module() {
    let bench = Bench::new();
    let core = plugin("cache-exact");
    let mut encoder = wit_component::ComponentEncoder::default()
        .module(&core)
        .unwrap();
    bench.put("cache.wasm", &encoder.encode().unwrap());
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Cache).state, State::Live);
    let looked = eventually("looked up", || Some(snapshot(&policies)));
    looked
        .cache_decide(&talk(&["What is diabetes?"]))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_was_kept_of_older_revisions_is_swept() {
    let mut bench = Bench::new();
    bench.settings.keep = 2;
    let policies = bench.start();
    let names = ["one", "two", "three", "four", "five"];
    for name in names {
        bench.put("t.wasm", &keeper(name));
        policies.reload().await.unwrap();
        assert_eq!(serving(&policies, Hook::Trim).name, name);
    }
    let files = |folder: &str| {
        let path = bench.root.path().join("data/policies").join(folder);
        let mut files: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        files
    };
    let there = |folder: &str, name: &'static str| {
        let sha256 = hex::encode(Sha256::digest(keeper(name)));
        files(folder).iter().any(|file| file.starts_with(&sha256))
    };
    for folder in ["sources", "compiled"] {
        assert!(there(folder, "four") && there(folder, "five"));
        for gone in &names[..3] {
            assert!(!there(folder, gone), "{gone} is still in {folder}");
        }
    }
    // The one before can still take over, and so can the built-in one.
    policies.rollback(Hook::Trim).await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "four");
}

#[tokio::test]
async fn a_change_of_one_hook_leaves_the_files_other_hook_alone() {
    let bench = Bench::new();
    let both = |name| {
        let trimmer = Guest::trimmer(name, "(i32.const 1024)");
        trimmer.and(Guest::guard(name, "(i32.const 1024)")).core()
    };
    bench.put("both.wasm", &both("one"));
    let policies = bench.start();
    bench.put("both.wasm", &both("two"));
    policies.reload().await.unwrap();
    let serve = |trim: &str, guard: &str| {
        assert_eq!(serving(&policies, Hook::Trim).name, trim);
        assert_eq!(serving(&policies, Hook::Guard).name, guard);
    };
    serve("two", "two");
    let config = serde_json::from_str(r#"{"any": 1}"#).unwrap();
    policies.configure(Hook::Trim, config).await.unwrap();
    serve("two", "two");
    // The config before, then the file before.
    for trim in ["two", "one"] {
        policies.rollback(Hook::Trim).await.unwrap();
        serve(trim, "two");
    }
    // So it stays after a restart: the file is not refused as a whole.
    drop(policies);
    let policies = bench.start();
    let serve = |trim: &str, guard: &str| {
        assert_eq!(serving(&policies, Hook::Trim).name, trim);
        assert_eq!(serving(&policies, Hook::Guard).name, guard);
    };
    serve("one", "two");
    // A file that serves one of them no more gives it back.
    bench.put(
        "both.wasm",
        &Guest::guard("three", "(i32.const 1024)").core(),
    );
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Guard).name, "three");
    assert_eq!(serving(&policies, Hook::Trim).state, State::Builtin);
}
