//! Before a policy serves: what it does wrong when it is tried, and what a gateway does that finds
//! nothing good in its folder when it starts.

use std::time::Duration;

use stent::policy::{Hook, State};

use super::guest::{Guest, HOARD, NO, SPIN, TRAP, keeper, wit};
use super::support::{Bench, eventually, rejected, serving, snapshot, talk};

const KEEP: &str = "(i32.const 1024)";
const DEEP: &str = "(func $deep (param i32) (result i32) \
                    (i32.add (call $deep (local.get 0)) (i32.const 1)))";

fn trimmer() -> Guest {
    Guest::trimmer("t", KEEP)
}

/// A contract that offers one interface more, imported by every world.
fn generous(interface: &str) -> String {
    wit()
        .replace("world base {", &format!("{interface}\nworld base {{"))
        .replace("  import request;", "  import request;\n  import clock;")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_misbehaves_when_it_is_tried_never_serves_and_the_reason_names_the_limit() {
    let mut bench = Bench::new();
    bench.settings.limits.probe = Duration::from_millis(60);
    bench.put("good.wasm", &keeper("good"));
    let policies = bench.start();
    let generation = policies.generation();
    let probe = "ran past policies.limits.probe = 60ms";
    let memory = "policies.limits.memory = 67108864";
    let deep = "(drop (call $deep (i32.const 0))) (i32.const 512)";
    let clock = "interface clock { now: func() -> u64; }";
    let ticking = trimmer()
        .by(generous(clock))
        .importing(r#"(import "stent:policy/clock@0.1.0" "now" (func $now (result i64)))"#);
    let cases = [
        ("spins", trimmer().configure(SPIN), "configure", probe),
        ("hoards", trimmer().configure(HOARD), "configure", memory),
        (
            "recurses",
            trimmer().configure(deep).with(DEEP),
            "configure",
            "nested too deeply for its stack",
        ),
        (
            "traps",
            trimmer().configure(TRAP),
            "configure",
            "it trapped",
        ),
        (
            "refuses",
            trimmer().configure(NO),
            "configure",
            "it reported: it will not do",
        ),
        (
            "tested",
            trimmer().self_test(NO),
            "self-test",
            "it reported",
        ),
        ("testing", trimmer().self_test(SPIN), "self-test", probe),
        (
            "starting",
            trimmer().with("(start $go) (func $go (loop (br 0)))"),
            "instantiate",
            probe,
        ),
        (
            "shouting",
            Guest::trimmer("Not A Name", KEEP),
            "describe",
            "it calls itself \"Not A Name\"",
        ),
        (
            "hookless",
            Guest::hookless("t"),
            "contract",
            "exports no hook, expected at least one of guard",
        ),
        (
            "importing",
            ticking,
            "contract",
            "imports stent:policy/clock@0.1.0, and a policy may import only types, request, host",
        ),
    ];
    for (name, guest, stage, reason) in cases {
        let file = format!("{name}.wasm");
        bench.put(&file, &guest.core());
        policies.reload().await.unwrap();
        let (at, why) =
            rejected(&policies, &file).unwrap_or_else(|| panic!("{name}: {:?}", policies.list()));
        assert!(at == stage && why.contains(reason), "{name}: {at}: {why}");
        std::fs::remove_file(bench.path(&file)).unwrap();
    }
    assert_eq!(policies.generation(), generation);
    assert_eq!(serving(&policies, Hook::Trim).name, "good");
    let trimmed = snapshot(&policies).trim(&talk(&["still here"]), None).await;
    assert_eq!(trimmed.unwrap().kept, [0]);
}

/// Names and words of a file are its author's, and are read by operators on terminals.
#[tokio::test]
async fn what_a_file_says_is_short_and_controls_no_terminal() {
    let bench = Bench::new();
    let policies = bench.start();
    let importing = |name: &str| {
        let import = format!(r#"(import "env" "{name}" (func))"#);
        trimmer().importing(&import).core()
    };
    let told = async |bytes: &[u8]| {
        bench.put("t.wasm", bytes);
        policies.reload().await.unwrap();
        rejected(&policies, "t.wasm").unwrap()
    };
    // More than a pipe holds: the compiling child has to get rid of it.
    let (stage, reason) = told(&importing(&"x".repeat(90_000))).await;
    assert_eq!(stage, "componentize", "{reason}");
    assert!(reason.starts_with("imports xxx") && reason.ends_with(" [...]"));
    assert!(reason.len() < 5000, "{} bytes", reason.len());
    let (_, reason) = told(&importing(r"\1b[2Jclock\0a")).await;
    assert!(
        reason.starts_with(r"imports \u{1b}[2Jclock  of env"),
        "{reason}"
    );
    let rude = trimmer()
        .self_test(NO)
        .with(r#"(data (i32.const 600) "\1b[2Jit\0awill")"#);
    let (stage, reason) = told(&rude.core()).await;
    assert_eq!(stage, "self-test");
    assert_eq!(reason, r"it reported: \u{1b}[2Jit will do");
    let version = trimmer().with(r#"(data (i32.const 128) "1\0a0.0")"#);
    let (stage, reason) = told(&version.core()).await;
    assert_eq!(stage, "describe");
    assert!(reason.starts_with(r#"its version is "1\n0.0""#), "{reason}");
}

#[tokio::test]
async fn a_bad_file_at_startup_leaves_the_built_in_policy() {
    let bench = Bench::new();
    bench.put("t.wasm", b"this is no policy");
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Trim).state, State::Builtin);
    policies.ready().expect("nobody required it");
    let (stage, reason) = rejected(&policies, "t.wasm").unwrap();
    assert_eq!(stage, "contract", "{reason}");
    let messages = talk(&["one", "two", "three"]);
    snapshot(&policies).trim(&messages, None).await.unwrap();
}

#[tokio::test]
async fn a_gateway_whose_required_policy_is_bad_is_not_ready_until_it_is_good() {
    let mut bench = Bench::new();
    bench.settings.trim.required = true;
    bench.put("t.wasm", &trimmer().self_test(TRAP).core());
    let policies = bench.start();
    let why = policies.ready().unwrap_err();
    assert!(why.contains("policies.trim.required is set"), "{why}");
    bench.put("t.wasm", &keeper("good"));
    eventually("ready", || policies.ready().ok());
    assert_eq!(serving(&policies, Hook::Trim).name, "good");
}

#[tokio::test]
async fn a_folder_without_events_is_polled() {
    let mut bench = Bench::new();
    bench.settings.poll = true;
    bench.settings.rescan = Duration::from_millis(50);
    let policies = bench.start();
    bench.put("t.wasm", &keeper("polled"));
    eventually("polled", || {
        (serving(&policies, Hook::Trim).name == "polled").then_some(())
    });
    std::fs::remove_file(bench.path("t.wasm")).unwrap();
    eventually("built-in", || {
        (serving(&policies, Hook::Trim).state == State::Builtin).then_some(())
    });
}

#[tokio::test]
async fn a_missed_event_is_made_up_for_by_the_next_rescan() {
    let mut bench = Bench::new();
    bench.settings.rescan = Duration::from_millis(50);
    // Events of the target are not seen: only the link lies in the folder that is watched.
    let away = bench.root.path().join("t.wasm");
    std::fs::write(&away, keeper("one")).unwrap();
    std::os::unix::fs::symlink(&away, bench.path("t.wasm")).unwrap();
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Trim).name, "one");
    std::fs::write(&away, keeper("two")).unwrap();
    eventually("two", || {
        (serving(&policies, Hook::Trim).name == "two").then_some(())
    });
}
