//! While a file is compiled, everything else goes on.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use stent::policy::{Hook, Policies, State};

use super::guest::{Guest, keeper};
use super::support::{Bench, eventually, rejected, serving, shadow};

const KEEP: &str = "(i32.const 1024)";

fn is_compiling(policies: &Policies, name: &str) -> bool {
    let mut all = policies.list().0.into_iter();
    all.any(|l| l.name == name && l.state == State::Compiling)
}

/// A compiler that begins when the returned file is there.
fn gated(bench: &mut Bench) -> PathBuf {
    let (script, gate) = (bench.root.path().join("cc"), bench.root.path().join("go"));
    let text = format!(
        "#!/bin/sh\nwhile [ ! -e '{}' ]; do sleep 0.02; done\nexec '{}' \"$@\"\n",
        gate.display(),
        env!("CARGO_BIN_EXE_stent")
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    bench.compiler = script;
    gate
}

#[tokio::test]
async fn rollback_and_promotion_wait_for_no_compiler() {
    let mut bench = Bench::new();
    let gate = gated(&mut bench);
    std::fs::write(&gate, "").unwrap();
    bench.put("t.wasm", &keeper("one"));
    let policies = bench.start();
    bench.put("t.wasm", &keeper("two"));
    bench.put("next.shadow.wasm", &keeper("next"));
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "two");
    std::fs::remove_file(&gate).unwrap();

    bench.put("slow.wasm", &Guest::guard("slow", KEEP).core());
    eventually("compiling", || {
        is_compiling(&policies, "slow").then_some(())
    });
    policies.rollback(Hook::Trim).await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "one");
    // The answer's own list says what became of the file, or that it is looked at.
    let file = |l: &stent::policy::Listed| l.file.as_deref() == Some(&*bench.path("t.wasm"));
    assert!(policies.list().0.iter().any(file), "{:?}", policies.list());
    assert!(shadow(&policies, Hook::Trim).is_some());
    policies.promote(Hook::Trim).await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "next");
    let config = serde_json::from_str(r#"{"any": 1}"#).unwrap();
    policies.configure(Hook::Trim, config).await.unwrap();
    assert!(is_compiling(&policies, "slow"), "{:?}", policies.list());

    // What was swept meanwhile was not what is being compiled.
    std::fs::write(&gate, "").unwrap();
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Guard).name, "slow");
    assert_eq!(serving(&policies, Hook::Trim).name, "next");
}

#[tokio::test]
async fn what_changes_or_goes_while_it_is_compiled_is_not_waited_for() {
    let mut bench = Bench::new();
    let gate = gated(&mut bench);
    let policies = bench.start();
    for name in ["stale", "newest"] {
        bench.put("g.wasm", &Guest::guard(name, KEEP).core());
        eventually("compiling", || is_compiling(&policies, "g").then_some(()));
    }
    bench.put("gone.wasm", &keeper("gone"));
    std::fs::remove_file(bench.path("gone.wasm")).unwrap();
    std::fs::write(&gate, "").unwrap();
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Guard).name, "newest");
    std::fs::remove_file(&gate).unwrap();
    bench.put("t.wasm", &keeper("t"));
    eventually("compiling", || is_compiling(&policies, "t").then_some(()));
    std::fs::remove_file(bench.path("t.wasm")).unwrap();
    eventually("off the list", || {
        (!is_compiling(&policies, "t")).then_some(())
    });
    assert_eq!(serving(&policies, Hook::Trim).state, State::Builtin);
    assert_eq!(rejected(&policies, "t.wasm"), None);
}

/// Whether a child compiles for this gateway.
fn compiles(bench: &Bench) -> bool {
    let folder = bench.root.path().display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .any(|line| line.contains("__compile") && line.contains(&folder))
}

#[tokio::test]
async fn a_compiler_that_takes_too_long_is_ended() {
    let mut bench = Bench::new();
    gated(&mut bench);
    bench.settings.limits.compile_wall = Duration::from_secs(2);
    let policies = bench.start();
    bench.put("t.wasm", &keeper("t"));
    eventually("a child compiles", || compiles(&bench).then_some(()));
    let (stage, reason) = eventually("rejected", || rejected(&policies, "t.wasm"));
    assert_eq!(stage, "compile");
    assert!(
        reason.contains("policies.limits.compile_wall = 2s"),
        "{reason}"
    );
    eventually("the child is gone", || (!compiles(&bench)).then_some(()));
}

/// The same with a module that really takes its time: some seconds, which nobody waits for.
#[tokio::test]
async fn a_rollback_does_not_wait_for_a_big_module() {
    let bench = Bench::new();
    bench.put("t.wasm", &keeper("one"));
    let policies = bench.start();
    bench.put("t.wasm", &keeper("two"));
    policies.reload().await.unwrap();
    let block = "(if (i32.eq (local.get $max) (i32.const 7)) \
                 (then (local.set $low (i32.add (local.get $low) (local.get $per)))))";
    let body = format!("{}{KEEP}", block.repeat(250_000));
    bench.put("big.wasm", &Guest::trimmer("big", &body).core());
    eventually("compiling", || is_compiling(&policies, "big").then_some(()));
    policies.rollback(Hook::Trim).await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "one");
    assert!(is_compiling(&policies, "big"), "{:?}", policies.list());
}
