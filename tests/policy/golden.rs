//! `stent policy test`: golden cases shown to an author, once and on every change.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use super::cli::{CASE, Desk};
use super::guest::{Guest, keeper};
use super::support::plugin;

/// Stops each answer at its first chunk; the reason is "it will not do".
fn stopper() -> Vec<u8> {
    let interface = "stent:policy/output-filter@0.1.0";
    let body = format!(
        r#"(func (export "{interface}#[static]filter.open") (param $req i32) (result i32)
            (call $drop-request (local.get $req))
            (i32.store (i32.const 1024) (i32.const 0))
            (i32.store (i32.const 1028) (call $new (i32.const 7)))
            (i32.const 1024))
          (func (export "{interface}#[method]filter.push") (param i32 i32 i32) (result i32)
            (i32.store (i32.const 1040) (i32.const 0)) (i32.store (i32.const 1044) (i32.const 1))
            (i32.store (i32.const 1048) (i32.const 600)) (i32.store (i32.const 1052) (i32.const 2))
            (i32.store (i32.const 1056) (i32.const 600)) (i32.store (i32.const 1060) (i32.const 14))
            (i32.const 1040))
          (func (export "{interface}#[method]filter.finish") (param i32 i32) (result i32)
            (i32.const 512))
          (func (export "{interface}#[dtor]filter") (param i32))"#
    );
    let guest = Guest {
        world: "filtering",
        body,
        ..Guest::trimmer("stopper", "")
    };
    let import = format!(
        r#"(import "[export]{interface}" "[resource-new]filter" (func $new (param i32) (result i32)))"#
    );
    guest.importing(&import).core()
}

#[test]
fn golden_cases_are_shown_one_by_one() {
    let desk = Desk::new();
    desk.put("t.wasm", keeper("keeper"));
    desk.run(&["test", "t.wasm"])
        .fails("t.cases.json is not there");
    let pair = |kept: &str| CASE.replace("KEPT", kept).replace("both", kept);
    let (good, bad) = (pair("[0, 1]"), pair("[1]"));
    desk.put("t.cases.json", &good);
    assert_eq!(
        desk.run(&["test", "t.wasm"]).ok(),
        "ok       trim    [0, 1]\n1 ok, 0 failed, 0 skipped\n"
    );
    let both = format!("{},{}", good.trim_end_matches(']'), &bad[1..]);
    desk.put("two.json", both);
    let told = desk
        .run(&["test", "t.wasm", "--cases", "two.json"])
        .fails("1 of 2 cases");
    assert!(told.contains("FAILED   trim    [1]\n"), "{told}");
    let mark = told
        .lines()
        .find(|line| line.trim() == "^")
        .unwrap()
        .find('^')
        .unwrap();
    let got = told.lines().find(|line| line.contains("got ")).unwrap();
    assert!(got[mark..].starts_with("0,1]}"), "{told}");

    desk.put(
        "typo.json",
        CASE.replace("KEPT", "[1]")
            .replace("\"expect\"", "\"expects\""),
    );
    desk.run(&["test", "t.wasm", "--cases", "typo.json"])
        .fails("unknown field `expects`");
    desk.put("other.json", r#"[{"name": "x", "hook": "guard", "messages": [{"role": "user", "text": "a"}], "expect": {"allow": true}}]"#);
    desk.run(&["test", "t.wasm", "--cases", "other.json"])
        .fails("has no case for a hook of t.wasm");
}

#[test]
fn filters_have_golden_cases() {
    let desk = Desk::new();
    desk.put("f.wasm", plugin("filter-redact"));
    let case = |emitted: &str| {
        format!(
            r#"[{{"name": "over chunks", "hook": "filter", "chunks": ["Write to ann@exa", "mple.org today."],
                 "expect": {{"emitted": {emitted:?}}}}}]"#
        )
    };
    desk.put("f.cases.json", case("wrong"));
    let told = desk.run(&["test", "f.wasm"]).fails("1 of 1 cases");
    let got = told
        .lines()
        .find_map(|line| line.trim().strip_prefix("got"))
        .unwrap();
    let got: Value = serde_json::from_str(got.trim()).unwrap();
    let emitted = got["emitted"].as_str().unwrap();
    assert!(
        emitted.starts_with("Write to ") && !emitted.contains("ann@"),
        "{emitted}"
    );
    desk.put("f.cases.json", case(emitted));
    desk.run(&["test", "f.wasm"]).ok();

    desk.put("s.wasm", stopper());
    desk.put(
        "s.cases.json",
        r#"[{"name": "stops", "hook": "filter", "chunks": ["a", "b"],
        "expect": {"stopped": {"emitted": "it", "reason": "it will not do"}}}]"#,
    );
    desk.run(&["test", "s.wasm"]).ok();
    desk.put(
        "s.cases.json",
        r#"[{"name": "goes on", "hook": "filter", "chunks": ["a"], "expect": {"emitted": "a"}}]"#,
    );
    desk.run(&["test", "s.wasm"]).fails("1 of 1 cases");
    desk.put(
        "s.cases.json",
        r#"[{"name": "empty", "hook": "filter", "expect": {"emitted": ""}}]"#,
    );
    desk.run(&["test", "s.wasm"])
        .fails("case \"empty\": it has no chunks");
}

/// Whether an answer is kept is decided by the policy, and asked like everything else.
#[test]
fn what_a_cache_policy_keeps_has_golden_cases() {
    let desk = Desk::new();
    desk.put("c.wasm", plugin("cache-exact"));
    let case = |rest: &str| {
        format!(
            r#"[{{"name": "it", "hook": "cache", "messages": [{{"role": "user", "text": "Hello"}}], {rest}}}]"#
        )
    };
    let test = |rest: &str| {
        desk.put("c.cases.json", case(rest));
        let config = "policies.cache.config.ttl_seconds=60";
        desk.run(&["test", "c.wasm", "--set", config])
    };
    test(r#""answer": "Hi.", "expect": {"store": 60000}"#).ok();
    test(r#""answer": "Hi", "finish": "length", "expect": {"skip": true}"#).ok();
    test(
        r#""answer": "Hi.", "prompt_tokens": 9, "output_tokens": 2, "elapsed_ms": 5,
        "expect": {"store": 60000}"#,
    )
    .ok();
    let told = test(r#""answer": "Hi.", "expect": {"store": 1}"#).fails("1 of 1 cases");
    assert!(told.contains(r#"{"store":60000}"#), "{told}");
    let told = test(r#""answer": "Hi.", "expect": {"skip": true}"#).fails("1 of 1 cases");
    assert!(told.contains(r#"{"store":60000}"#), "{told}");
    for (rest, why) in [
        (r#""expect": {"skip": true}"#, "has no answer to keep"),
        (
            r#""answer": "Hi.", "expect": {"lookup": "bypass"}"#,
            "it has an answer, expected {\"store\": milliseconds}",
        ),
    ] {
        test(rest).fails(why);
    }
    desk.put(
        "t.cases.json",
        CASE.replace("KEPT", "[0, 1]")
            .replace("\"expect\"", "\"answer\": \"x\", \"expect\""),
    );
    desk.put("t.wasm", keeper("keeper"));
    desk.run(&["test", "t.wasm"])
        .fails("only cache policies are asked to keep one");
    // A gateway asks them before it swaps.
    desk.put(
        "c.cases.json",
        case(r#""answer": "Hi.", "expect": {"store": 1}"#),
    );
    desk.run(&["dry-run", "c.wasm"])
        .fails("does not pass cases");
}

#[test]
fn a_watched_policy_is_tested_again_when_it_changes() {
    let desk = Desk::new();
    desk.put("t.wasm", keeper("keeper"));
    desk.put("t.cases.json", CASE.replace("KEPT", "[0, 1]"));
    let mut child = desk
        .policy(&["test", "t.wasm", "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (lines, inbox) = mpsc::channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        out.lines()
            .map_while(Result::ok)
            .for_each(|line| drop(lines.send(line)));
    });
    let until = |part: &str| loop {
        let line = inbox.recv_timeout(Duration::from_secs(30));
        match line {
            Ok(line) if line.contains(part) => break,
            Ok(_) => {}
            Err(error) => panic!("never: {part}: {error}"),
        }
    };
    until("1 ok, 0 failed");
    until("waiting for a change");
    // The cases change, then the policy, then it is broken and mended.
    desk.put("t.cases.json", CASE.replace("KEPT", "[1]"));
    until("0 ok, 1 failed");
    until("waiting for a change");
    let newest = "(i32.store8 (i32.const 1032) (i32.const 1)) \
                  (i64.store (i32.const 1040) (i64.const 1)) (i32.const 1024)";
    desk.put("new", Guest::trimmer("newest", newest).core());
    std::fs::rename(desk.path("new"), desk.path("t.wasm")).unwrap();
    until("1 ok, 0 failed");
    until("waiting for a change");
    desk.put("t.wasm", "broken");
    until("is not WebAssembly");
    until("waiting for a change");
    desk.put("t.wasm", keeper("keeper"));
    until("0 ok, 1 failed");
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
}
