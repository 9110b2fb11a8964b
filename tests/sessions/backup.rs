//! `stent sessions export|import`, and what is on disk.

use std::path::Path;
use std::process::Output;

use stent::session::Where;

use super::stores::{add, key, open, texts};
use crate::support::redis::RedisServer;
use crate::support::server::{Server, command};

fn run(data: &Path, args: &[&str], vars: &[(&str, &str)]) -> (bool, String) {
    let mut command = command();
    command.arg("sessions").args(args).arg("--data").arg(data);
    let Output {
        status,
        stdout,
        stderr,
    } = command.envs(vars.iter().copied()).output().unwrap();
    let text = [stdout, stderr].concat();
    (status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_backup_of_one_store_is_taken_in_by_another() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sessions = open(&Where::Redb, from.path(), |_| {});
    for n in 0..250 {
        add(&sessions, &key("t", &format!("s{n}")), &format!("text {n}")).await;
    }
    add(&sessions, &key("t", "s7"), "more").await;
    let file = from.path().join("backup.jsonl");
    let file = file.to_str().unwrap();
    // The gateway goes on meanwhile.
    let (good, told) = run(from.path(), &["export", "--out", file], &[]);
    assert!(
        good && told.contains("250 sessions with 251 exchanges"),
        "{told}"
    );
    let (good, told) = run(from.path(), &["export", "--out", file], &[]);
    assert!(!good && told.contains("cannot be made"), "{told}");
    add(&sessions, &key("t", "s8"), "still here").await;

    let server = RedisServer::start();
    let redis = format!("sessions.store={}", server.url());
    let (good, told) = run(to.path(), &["import", file, "--set", &redis], &[]);
    assert!(
        good && told.contains("250 sessions with 251 exchanges were imported, 0"),
        "{told}"
    );
    let store = Where::Redis(server.url().parse().unwrap());
    let shared = open(&store, to.path(), |_| {});
    assert_eq!(
        texts(&shared, &key("t", "s7")).await,
        ["text 7", "text 7!", "more", "more!"]
    );
    assert_eq!(shared.load(&key("t", "s7")).await.unwrap().next(), (4, 2));
    let (good, told) = run(to.path(), &["import", file, "--set", &redis], &[]);
    assert!(
        good && told.contains("0 sessions with 0 exchanges were imported, 250"),
        "{told}"
    );
    let (good, told) = run(to.path(), &["export", "--set", &redis], &[]);
    assert!(
        good && told.lines().count() == 251,
        "{}",
        told.lines().count()
    );
}

#[tokio::test]
async fn a_line_that_is_none_is_told_with_its_number() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("b");
    for (text, problem) in [
        ("{}", "line 1: missing field `format`"),
        (
            "\n{\"format\":9}",
            "line 2: this session cannot be read: it was written in format 9",
        ),
        (
            r#"{"format":1,"tenant":"t","session":"a b","exchanges":[]}"#,
            "line 1: session_id: contains ' '",
        ),
        (
            r#"{"format":1,"tenant":"t","session":"a","exchanges":[]}"#,
            "line 1: exchanges: expected at least one",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let (good, told) = run(data.path(), &["import", file.to_str().unwrap()], &[]);
        assert!(!good && told.contains(problem), "{told}");
    }
    let (good, told) = run(&data.path().join("none"), &["export"], &[]);
    assert!(!good && told.contains("there are no sessions"), "{told}");
}

const KEYS: &str = "STENT_SESSION_KEYS";

#[tokio::test]
async fn what_is_sealed_is_on_disk_in_no_plain_text_and_opens_with_its_keys_only() {
    let (a, b) = (
        format!("a:{}", "11".repeat(32)),
        format!("b:{}", "22".repeat(32)),
    );
    let data = tempfile::tempdir().unwrap();
    let set = format!("data.dir={}", data.path().display());
    let sets = [
        "engine.kind=scripted",
        "sessions.encrypt=true",
        set.as_str(),
    ];
    let server = Server::start_with(&sets, &[(KEYS, a.as_str())]).await;
    server.chat("canary-5e1d", "s").await;
    drop(server);
    let file = std::fs::read(data.path().join(stent::session::FILE)).unwrap();
    assert!(!file.windows(11).any(|part| part == b"canary-5e1d"));
    let seal = ["--set", "sessions.encrypt=true"];
    let export = |vars: &[(&str, &str)]| run(data.path(), &["export", seal[0], seal[1]], vars);
    let (good, told) = export(&[(KEYS, a.as_str())]);
    assert!(good && told.contains("canary-5e1d"), "{told}");
    let rotated = format!("{b},{a}");
    let (good, told) = export(&[(KEYS, rotated.as_str())]);
    assert!(good && told.contains("canary-5e1d"), "{told}");
    let (good, told) = export(&[(KEYS, b.as_str())]);
    assert!(!good && told.contains("sealed with key \"a\""), "{told}");
    let wrong = format!("a:{}", "33".repeat(32));
    let (good, told) = export(&[(KEYS, wrong.as_str())]);
    assert!(!good && told.contains("does not open it"), "{told}");
    let (good, told) = export(&[]);
    assert!(
        !good && told.contains("STENT_SESSION_KEYS is not set"),
        "{told}"
    );
    let (good, told) = export(&[(KEYS, "nonsense")]);
    assert!(!good && told.contains("key 1 has no id"), "{told}");
}
