//! A shadow becomes the live policy with all that belongs to it, or nothing changes; both are told.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use stent::policy::{Hook, Policies, State};

use super::guest::{Guest, keeper};
use super::support::{
    Bench, audited, cases, eventually, rejected, serving, shadow, sign, snapshot, talk,
};

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn keyed() -> Bench {
    let mut bench = Bench::new();
    bench.settings.trusted_keys = vec![hex::encode(key().verifying_key().to_bytes())];
    bench
}

fn put_signed(bench: &Bench, name: &str, bytes: &[u8]) {
    bench.put(name, bytes);
    sign(bench, name, &key());
}

#[tokio::test]
async fn signature_and_cases_go_with_a_promoted_file() {
    let bench = keyed();
    put_signed(&bench, "live.wasm", &keeper("live"));
    std::fs::write(bench.path("next.shadow.cases.json"), cases("[0, 1]")).unwrap();
    put_signed(&bench, "next.shadow.wasm", &keeper("next"));
    let policies = bench.start();
    assert!(shadow(&policies, Hook::Trim).is_some());
    policies.promote(Hook::Trim).await.unwrap();
    let promoted = |policies: &Arc<Policies>| {
        assert_eq!(serving(policies, Hook::Trim).name, "next");
        assert!(shadow(policies, Hook::Trim).is_none());
    };
    promoted(&policies);
    for name in ["next.wasm", "next.wasm.sig", "next.cases.json"] {
        assert!(bench.path(name).exists(), "{name}");
    }
    for name in ["live.wasm.retired", "live.wasm.sig.retired"] {
        assert!(bench.path(name).exists(), "{name}");
    }
    // Nothing of it depends on this process.
    drop(policies);
    promoted(&bench.start());
}

#[tokio::test]
async fn a_promotion_that_fails_changes_nothing_and_says_why() {
    let bench = keyed();
    put_signed(&bench, "t.wasm", &keeper("live"));
    put_signed(&bench, "t.shadow.wasm", &keeper("next"));
    let policies = bench.start();
    // Valid for the shadow that runs, not for what would be promoted.
    std::fs::remove_file(bench.path("t.shadow.wasm.sig")).unwrap();
    let error = policies.promote(Hook::Trim).await.unwrap_err().to_string();
    assert!(
        error.contains("verify: policies.trusted_keys asks for a signature"),
        "{error}"
    );
    let names = ["t.wasm", "t.wasm.sig", "t.shadow.wasm"];
    assert!(names.iter().all(|name| bench.path(name).exists()));
    assert!(!bench.path("t.wasm.retired").exists());
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "live");
    sign(&bench, "t.shadow.wasm", &key());
    policies.promote(Hook::Trim).await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "next");
    let error = policies.promote(Hook::Trim).await.unwrap_err().to_string();
    assert!(error.contains("it has no shadow"), "{error}");
}

#[tokio::test]
async fn a_promotion_takes_no_other_hook_its_policy() {
    let bench = Bench::new();
    let both = Guest::trimmer("both", "(i32.const 1024)");
    let both = both.and(Guest::guard("both", "(i32.const 1024)"));
    bench.put("both.wasm", &both.core());
    bench.put("t.shadow.wasm", &keeper("next"));
    let policies = bench.start();
    let error = policies.promote(Hook::Trim).await.unwrap_err().to_string();
    assert!(
        error.contains("both.wasm would make room and serves the guard hook as well"),
        "{error}"
    );
    assert!(bench.path("both.wasm").exists());
    assert_eq!(serving(&policies, Hook::Trim).name, "both");
}

#[tokio::test]
async fn every_change_is_a_line_of_the_audit_log() {
    let bench = Bench::new();
    bench.put("t.wasm", &keeper("live"));
    let policies = bench.start();
    let config = serde_json::from_str(r#"{"any": 1}"#).unwrap();
    policies.configure(Hook::Trim, config).await.unwrap();
    bench.put("next.shadow.wasm", &keeper("next"));
    policies.reload().await.unwrap();
    policies.promote(Hook::Trim).await.unwrap();
    bench.put("other.shadow.wasm", &keeper("other"));
    policies.reload().await.unwrap();
    std::fs::remove_file(bench.path("other.shadow.wasm")).unwrap();
    eventually("unshadowed", || {
        shadow(&policies, Hook::Trim).is_none().then_some(())
    });
    std::fs::remove_file(bench.path("next.wasm")).unwrap();
    eventually("built-in", || {
        (serving(&policies, Hook::Trim).state == State::Builtin).then_some(())
    });
    let told: Vec<_> = eventually("removed is written", || {
        let told = audited(&policies);
        told.last()
            .is_some_and(|(_, what, _)| what == "removed")
            .then_some(told)
    });
    let told: Vec<_> = told.iter().map(|(by, what, _)| [&**by, what]).collect();
    let expected = [
        ["file", "swapped"],
        ["api", "configured"],
        ["file", "shadowed"],
        ["api", "promoted"],
        ["file", "shadowed"],
        ["file", "unshadowed"],
        ["file", "removed"],
    ];
    assert_eq!(told, expected);
    let digest = |name| {
        use sha2::Digest;
        hex::encode(sha2::Sha256::digest(keeper(name)))
    };
    let promoted = policies.audit(100).unwrap().remove(3);
    assert_eq!(
        (promoted.from, promoted.to),
        (digest("live"), digest("next"))
    );
    assert!(rejected(&policies, "next.wasm").is_none());
    snapshot(&policies).trim(&talk(&["a"]), None).await.unwrap();
}
