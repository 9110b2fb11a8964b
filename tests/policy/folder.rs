//! What happens to files: from the folder to the live generation, or not.

use std::io::Write;
use std::time::{Duration, Instant};

use stent::policy::{Hook, State};

use super::guest::{Guest, keeper};
use super::support::{Bench, eventually, plugin, rejected, rejected_hook, serving, snapshot, talk};

#[tokio::test]
async fn a_dropped_file_serves_new_requests_and_running_ones_keep_theirs() {
    let bench = Bench::new();
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Trim).state, State::Builtin);
    let before = snapshot(&policies);
    let dropped = Instant::now();
    bench.put("mine.wasm", &keeper("mine"));
    eventually("live", || {
        (serving(&policies, Hook::Trim).name == "mine").then_some(())
    });
    println!("dropped file live after {:?}", dropped.elapsed());
    let after = snapshot(&policies);
    assert!(after.generation() > before.generation());
    assert_ne!(after.identity(), before.identity());
    // Three exchanges fit the built-in trimmer; five do not, and the dropped one keeps all.
    let messages = talk(&["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]);
    assert!(before.trim(&messages, None).await.unwrap().dropped > 0);
    assert_eq!(after.trim(&messages, None).await.unwrap().dropped, 0);
    // The reconciler itself lets go of the old one a moment after the swap.
    eventually("two generations", || {
        (policies.live_generations() == 2).then_some(())
    });
    drop(before);
    eventually("one generation", || {
        (policies.live_generations() == 1).then_some(())
    });
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_waited_for() {
    let bench = Bench::new();
    let policies = bench.start();
    let bytes = plugin("trim-exchanges");
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let mut file = std::fs::File::create(bench.path("slow.wasm")).unwrap();
    file.write_all(first).unwrap();
    file.flush().unwrap();
    eventually("pending", || {
        let pending = |l: &stent::policy::Listed| {
            l.state == State::Pending && l.reason.as_deref().is_some_and(|r| r.contains("whole"))
        };
        policies.list().0.iter().any(pending).then_some(())
    });
    assert_eq!(serving(&policies, Hook::Trim).state, State::Builtin);
    file.write_all(rest).unwrap();
    drop(file);
    eventually("live", || {
        (serving(&policies, Hook::Trim).state == State::Live).then_some(())
    });
}

#[tokio::test]
async fn dotfiles_and_temporary_files_are_ignored() {
    let bench = Bench::new();
    let policies = bench.start();
    std::fs::write(bench.path(".hidden.wasm"), b"x").unwrap();
    std::fs::write(bench.path("half.wasm.tmp"), b"x").unwrap();
    let listed = policies.reload().await.unwrap();
    assert!(
        listed.0.iter().all(|l| l.state == State::Builtin),
        "{listed:?}"
    );
}

#[tokio::test]
async fn broken_files_change_nothing_and_say_why() {
    let bench = Bench::new();
    bench.put("good.wasm", &keeper("good"));
    let policies = bench.start();
    let generation = policies.generation();
    let wit = include_str!("../../wit/policy.wit");
    let newer = Guest {
        wit: Some(wit.replace("policy@0.1.0", "policy@0.9.0")),
        ..Guest::trimmer("t", "(i32.const 1024)")
    };
    let clock = r#"(import "env" "clock" (func $clock (result i64)))"#;
    let cases: [(&str, Vec<u8>, &str, &str); 7] = [
        (
            "text.wasm",
            b"hello, this is no wasm".to_vec(),
            "contract",
            "is not WebAssembly: it begins with 68656c6c",
        ),
        (
            "bare.wasm",
            wat::parse_str("(module)").unwrap(),
            "contract",
            "does not export stent:policy/policy@0.1.0",
        ),
        (
            "import.wasm",
            Guest::trimmer("t", "(i32.const 1024)")
                .importing(clock)
                .core(),
            "componentize",
            "imports clock of env, and a policy may import only types, request, host of",
        ),
        (
            "version.wasm",
            newer.versioned("0.9.0"),
            "contract",
            "is written for stent:policy/",
        ),
        (
            "trapping.wasm",
            Guest::trimmer("t", "(i32.const 1024)")
                .configure("(unreachable)")
                .core(),
            "configure",
            "it trapped",
        ),
        (
            "refusing.wasm",
            Guest::trimmer("t", "(i32.const 1024)")
                .configure("(i32.const 528)")
                .core(),
            "configure",
            "it reported: it will not do",
        ),
        (
            "second.wasm",
            keeper("second"),
            "swap",
            "serves the trim hook, which",
        ),
    ];
    for (name, bytes, stage, reason) in cases {
        bench.put(name, &bytes);
        policies.reload().await.unwrap();
        let (at, why) =
            rejected(&policies, name).unwrap_or_else(|| panic!("{name}: {:?}", policies.list()));
        assert!(at == stage && why.contains(reason), "{name}: {at}: {why}");
        let read = !["text.wasm", "bare.wasm", "import.wasm"].contains(&name);
        let hook = rejected_hook(&policies, name);
        assert_eq!(hook, read.then_some(Hook::Trim), "{name}");
    }
    assert_eq!(policies.generation(), generation);
    assert_eq!(serving(&policies, Hook::Trim).name, "good");
    // A removed file is no longer listed.
    std::fs::remove_file(bench.path("text.wasm")).unwrap();
    eventually("unlisted", || {
        rejected(&policies, "text.wasm").is_none().then_some(())
    });
    // The one that serves is gone: the one that waited for its hook has its turn.
    std::fs::remove_file(bench.path("good.wasm")).unwrap();
    eventually("second", || {
        (serving(&policies, Hook::Trim).name == "second").then_some(())
    });
}

#[tokio::test]
async fn a_compile_bomb_dies_at_its_limit_in_the_child() {
    let mut bench = Bench::new();
    bench.settings.limits.compile_wall = Duration::from_millis(400);
    let policies = bench.start();
    // One function of many small blocks keeps an optimising compiler busy for long.
    let bomb = "(if (i32.eq (local.get $max) (i32.const 7)) (then (local.set $low (i32.add (local.get $low) (local.get $per)))))".repeat(60_000);
    bench.put(
        "bomb.wasm",
        &Guest::trimmer("bomb", &format!("{bomb}(i32.const 1024)")).core(),
    );
    policies.reload().await.unwrap();
    let (stage, reason) = rejected(&policies, "bomb.wasm").unwrap();
    assert_eq!(stage, "compile");
    assert!(
        reason.contains("policies.limits.compile_wall = 400ms"),
        "{reason}"
    );
    assert_eq!(serving(&policies, Hook::Trim).state, State::Builtin);
}

#[tokio::test]
async fn the_compilers_memory_is_limited() {
    let mut bench = Bench::new();
    bench.settings.limits.compile_memory = 120 << 20;
    let policies = bench.start();
    let bomb =
        "(local.set $low (i32.add (i32.mul (local.get $low) (local.get $per)) (local.get $max)))"
            .repeat(300_000);
    bench.put(
        "bomb.wasm",
        &Guest::trimmer("bomb", &format!("{bomb}(i32.const 1024)")).core(),
    );
    policies.reload().await.unwrap();
    let (stage, reason) =
        rejected(&policies, "bomb.wasm").unwrap_or_else(|| panic!("{:?}", policies.list()));
    assert_eq!(stage, "compile");
    assert!(
        reason.contains("policies.limits.compile_memory"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_file_over_the_limit_is_not_even_read() {
    let mut bench = Bench::new();
    bench.settings.limits.file_bytes = 1000;
    let policies = bench.start();
    bench.put("big.wasm", &plugin("trim-exchanges"));
    policies.reload().await.unwrap();
    let (stage, reason) = rejected(&policies, "big.wasm").unwrap();
    assert_eq!(stage, "verify");
    assert!(
        reason.contains("policies.limits.file_bytes allows 1000"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_deleted_file_gives_way_to_the_built_in_policy() {
    let bench = Bench::new();
    bench.put("mine.wasm", &keeper("mine"));
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Trim).name, "mine");
    std::fs::remove_file(bench.path("mine.wasm")).unwrap();
    eventually("built-in", || {
        (serving(&policies, Hook::Trim).state == State::Builtin).then_some(())
    });
}

#[tokio::test]
async fn a_vanished_folder_is_no_deletion() {
    let bench = Bench::new();
    bench.put("mine.wasm", &keeper("mine"));
    let policies = bench.start();
    let away = bench.root.path().join("away");
    std::fs::rename(&bench.settings.dir, &away).unwrap();
    let alarm = eventually("an alarm", || policies.alarms().pop());
    assert!(
        alarm.contains("cannot be read; what serves goes on serving"),
        "{alarm}"
    );
    // Longer than a deleted file would be given.
    policies.reload().await.unwrap();
    tokio::time::sleep(2 * bench.settings.grace).await;
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).name, "mine");
    std::fs::rename(&away, &bench.settings.dir).unwrap();
    eventually("no alarm", || policies.alarms().is_empty().then_some(()));
    assert_eq!(serving(&policies, Hook::Trim).name, "mine");
    // The folder is watched again.
    bench.put("mine.wasm", &keeper("other"));
    eventually("other", || {
        (serving(&policies, Hook::Trim).name == "other").then_some(())
    });
}

#[tokio::test]
async fn a_switched_data_link_is_seen() {
    let bench = Bench::new();
    let dir = &bench.settings.dir;
    for (version, name) in [("v1", "one"), ("v2", "two")] {
        std::fs::create_dir(dir.join(format!("..{version}"))).unwrap();
        std::fs::write(dir.join(format!("..{version}/t.wasm")), keeper(name)).unwrap();
    }
    std::os::unix::fs::symlink("..v1", dir.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/t.wasm", dir.join("t.wasm")).unwrap();
    let policies = bench.start();
    assert_eq!(serving(&policies, Hook::Trim).name, "one");
    std::os::unix::fs::symlink("..v2", dir.join("..data_tmp")).unwrap();
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    eventually("two", || {
        (serving(&policies, Hook::Trim).name == "two").then_some(())
    });
}

#[tokio::test]
async fn our_own_reading_raises_no_storm() {
    let bench = Bench::new();
    bench.put("mine.wasm", &keeper("mine"));
    let policies = bench.start();
    policies.reload().await.unwrap();
    let generation = policies.generation();
    for _ in 0..5 {
        policies.reload().await.unwrap();
    }
    assert_eq!(policies.generation(), generation);
}

/// The list tells since when what serves does so, also for a built-in policy that came back.
#[tokio::test]
async fn what_serves_again_tells_the_generation_that_it_serves_since() {
    let bench = Bench::new();
    let policies = bench.start();
    let first = serving(&policies, Hook::Trim).generation;
    bench.put("mine.wasm", &keeper("mine"));
    policies.reload().await.unwrap();
    let mine = serving(&policies, Hook::Trim).generation;
    assert!(mine > first);
    assert_eq!(mine, policies.generation());
    std::fs::remove_file(bench.path("mine.wasm")).unwrap();
    eventually("built in again", || {
        (serving(&policies, Hook::Trim).state == State::Builtin).then_some(())
    });
    assert_eq!(
        serving(&policies, Hook::Trim).generation,
        policies.generation()
    );
    assert!(policies.generation() > mine);
    // Nobody else began anew.
    assert_eq!(serving(&policies, Hook::Cache).generation, first);
}
