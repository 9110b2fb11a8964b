//! What hooks hear is recorded where an operator wants it, and a candidate is asked it again.

use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::process::Command;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::json;

use super::cli::Desk;
use super::guest::Guest;
use super::support::{Bench, eventually, plugin, snapshot, talk};
use crate::support::server::Server;

#[tokio::test]
async fn a_candidate_is_asked_what_a_gateway_recorded() {
    let desk = Desk::new();
    let set = format!("policies.record={}", desk.path("rec.jsonl").display());
    // It was there before, for everybody to read.
    desk.put("rec.jsonl", "");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(desk.path("rec.jsonl"), open).unwrap();
    let server = Server::start(&["engine.kind=scripted", &set]).await;
    for question in ["What is diabetes?", "And its signs?", "Is there a cure?"] {
        server.chat(question, "talk").await;
    }
    assert!(
        server
            .log()
            .contains("everything that people write and are answered is stored in")
    );
    let recorded = || std::fs::read_to_string(desk.path("rec.jsonl")).unwrap();
    eventually("the last answer", || {
        (recorded().matches(r#""ask":"filter""#).count() == 3).then_some(())
    });
    assert!(recorded().contains("Is there a cure?"));
    let mode = std::fs::metadata(desk.path("rec.jsonl"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(
        mode & 0o777,
        0o600,
        "only its owner may read what people wrote"
    );
    drop(server);

    let replay = |name: &str, bytes: Vec<u8>| {
        desk.put(name, bytes);
        let tokenizer = ["--set", "engine.kind=scripted"];
        let args = ["replay", "--recording", "rec.jsonl", name, "--show", "99"];
        desk.run(&[&args[..], &tokenizer].concat())
    };
    // The policies that answered give the same answers again.
    for (name, hook) in [
        ("trim-exchanges", "trim"),
        ("prompt-mistral", "prompt"),
        ("cache-exact", "cache"),
    ] {
        let told = replay("same.wasm", plugin(name));
        let (status, out) = (told.status, told.out);
        let first = out.lines().next().unwrap();
        assert!(
            status == 0 && first.starts_with(&format!("{hook}: ")),
            "{out}\n{}",
            told.err
        );
        assert!(first.ends_with(" same, 0 different, 0 failed"), "{out}");
        assert!(
            !first.contains(": 0 same") && out.contains("hooks that the candidate does not serve"),
            "{out}"
        );
    }
    // Nothing filtered the answers, and nothing in them is to be redacted.
    assert!(
        replay("f.wasm", plugin("filter-redact"))
            .out
            .starts_with("filter: 3 same, 0 different")
    );
    // Keeps the newest of the five messages of the third question only.
    let newest = "(i32.store8 (i32.const 1032) (i32.const 2)) \
                  (i32.store (i32.const 1040) (i32.const 2048)) (i32.store (i32.const 1044) (i32.const 1)) \
                  (i64.store (i32.const 2048) (i64.const 4)) (i32.const 1024)";
    let other = replay("other.wasm", Guest::trimmer("other", newest).core());
    assert_eq!(
        other.status, 1,
        "ids that are not there are faults: {}",
        other.out
    );
    assert!(
        !other.out.contains(" 0 different") && other.out.contains("recorded from trim-exchanges"),
        "{}",
        other.out
    );
    assert!(
        other.out.contains("expected  [0,1,2,3,4]") && other.out.contains("got       [4]"),
        "{}",
        other.out
    );
    replay("bad.wasm", Guest::trimmer("bad", "(unreachable)").core()).fails("bad.wasm failed in");
    desk.put("rec.jsonl", "nothing\n");
    replay("same.wasm", plugin("trim-exchanges")).fails("holds no recorded call");
}

#[tokio::test]
async fn without_the_setting_nothing_is_recorded_and_with_it_only_so_much() {
    let mut bench = Bench::new();
    let file = bench.root.path().join("rec.jsonl");
    let ask = async |bench: &Bench| {
        let policies = bench.start();
        for _ in 0..50 {
            snapshot(&policies)
                .trim(&talk(&["a", "b", "c"]), None)
                .await
                .unwrap();
        }
    };
    ask(&bench).await;
    assert!(!file.exists());
    bench.settings.record = file.clone();
    bench.settings.record_max_bytes = 4000;
    for _ in 0..2 {
        ask(&bench).await;
        let text = std::fs::read_to_string(&file).unwrap();
        assert!((2000..=4000).contains(&text.len()), "{} bytes", text.len());
        assert!(text.ends_with('\n'), "lines are whole");
    }
    bench.settings.record = bench.root.path().join("no/such/folder");
    let error = bench.try_start().err().unwrap().to_string();
    assert!(
        error.starts_with("policies.record: ") && error.contains("No such file"),
        "{error}"
    );
}

#[tokio::test]
async fn a_slow_disk_delays_no_request_and_what_it_cost_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    // Open for both, so that neither side waits for the other; nobody reads for now.
    let nonblock = 0o4000;
    let mut both = std::fs::OpenOptions::new();
    let both = both.read(true).write(true).custom_flags(nonblock);
    let mut reader = both.open(&pipe).unwrap();
    let set = format!("policies.record={}", pipe.display());
    let server = Server::start(&["engine.kind=scripted", &set]).await;
    // The guard's and four other calls of each request: more than pipe and queue hold.
    let requests = (0..400).map(|at| {
        let body = json!({ "message": format!("question {at}"), "max_tokens": 1 });
        server.post("/chat", body)
    });
    let answered = futures::stream::iter(requests).buffer_unordered(16);
    let answered = answered.filter(|response| std::future::ready(response.status() == 200));
    let all = tokio::time::timeout(Duration::from_secs(60), answered.count()).await;
    assert_eq!(all.unwrap(), 400, "{}", server.log());

    let mut buffer = vec![0; 1 << 16];
    let told = |log: String| {
        let line = log
            .lines()
            .find(|line| line.contains("calls were not recorded"))?;
        let (before, _) = line.split_once(" calls were")?;
        before.rsplit([' ', '"']).next()?.parse::<u64>().ok()
    };
    let start = Instant::now();
    let dropped = loop {
        while reader.read(&mut buffer).is_ok_and(|got| got > 0) {}
        match told(server.log()) {
            Some(dropped) => break dropped,
            None => assert!(
                start.elapsed() < Duration::from_secs(30),
                "{}",
                server.log()
            ),
        }
        tokio::task::yield_now().await;
    };
    assert!(dropped > 100, "{dropped}");
}
