//! What `stent policy` does for those who write policies: new, check, bench.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::cli::Desk;
use super::guest::Guest;
use super::support::plugin;

#[test]
fn check_tells_an_author_what_is_wrong() {
    let desk = Desk::new();
    desk.put("good.wasm", plugin("filter-redact"));
    let good = desk.run(&["check", "good.wasm"]).ok();
    for part in [
        "filter-redact 0.1.0",
        "filter (output-filter)",
        "64.0 MiB are allowed",
        "It keeps the contract",
    ] {
        assert!(good.contains(part), "{part}: {good}");
    }
    let wasi = r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))"#;
    let huge = "(drop (memory.grow (i32.const 20000))) (i32.const 512)";
    let cases: [(&str, Vec<u8>, &str, &str); 6] = [
        (
            "text",
            b"hello".to_vec(),
            "contract: is not WebAssembly",
            "",
        ),
        (
            "bare",
            wat::parse_str("(module)").unwrap(),
            "contract: does not export",
            "Name the hook's world",
        ),
        (
            "wasi",
            Guest::trimmer("t", "(i32.const 1024)")
                .importing(wasi)
                .core(),
            "componentize: imports fd_write of wasi_snapshot_preview1",
            "wasm32-unknown-unknown",
        ),
        (
            "no",
            Guest::trimmer("t", "(i32.const 1024)")
                .configure("(i32.const 528)")
                .core(),
            "configure: it reported: it will not do",
            "policies.HOOK.config",
        ),
        (
            "huge",
            Guest::trimmer("t", "(i32.const 1024)")
                .configure(huge)
                .core(),
            "configure: it asked for",
            "",
        ),
        (
            "spin",
            Guest::trimmer("t", "(i32.const 1024)")
                .configure("(loop (br 0)) (unreachable)")
                .core(),
            "configure: it ran past policies.limits.probe = 200ms",
            "",
        ),
    ];
    for (name, bytes, reason, advice) in cases {
        let file = format!("{name}.wasm");
        desk.put(&file, bytes);
        let fast = ["--set", "policies.limits.probe=200ms"];
        let told = desk.run(&[&["check", file.as_str()][..], &fast].concat());
        let out = told.fails(&format!("{name}.wasm: {reason}"));
        assert!(out.contains(advice), "{name}: {out}");
    }
    desk.run(&[
        "check",
        "good.wasm",
        "--set",
        "policies.limits.file_bytes=1000",
    ])
    .fails("policies.limits.file_bytes allows 1000");
    desk.run(&["check", "missing.wasm"])
        .fails("cannot be read: No such file");
}

#[test]
fn bench_times_every_call_and_meets_faults() {
    let desk = Desk::new();
    let called = |name: &str| -> Vec<String> {
        let told = |it: &Value, key: &str| it[key].as_u64().unwrap();
        desk.put("p.wasm", plugin(name));
        let json = desk
            .run(&["bench", "p.wasm", "--calls", "50", "--json"])
            .ok();
        let speeds: Value = serde_json::from_str(&json).unwrap();
        let memory = speeds[0]["memory_peak"].as_u64().unwrap();
        assert!((1 << 16..64 << 20).contains(&memory), "{json}");
        let figures = speeds[0]["figures"].as_array().unwrap();
        for it in figures {
            let (p50, p99) = (
                it["p50_us"].as_f64().unwrap(),
                it["p99_us"].as_f64().unwrap(),
            );
            assert!(
                p50 > 0.0 && p99 >= p50 && it["calls"].as_u64().unwrap() >= 50,
                "{it}"
            );
        }
        let mut burnt = 0;
        for it in figures {
            let (p50, p99) = (told(it, "p50_fuel"), told(it, "p99_fuel"));
            assert!(p50 <= p99 && p99 < 100_000_000, "{it}");
            burnt += p50;
        }
        assert!(burnt > 1000, "{json}");
        // Counted, not timed: the same question burns the same.
        let again = desk
            .run(&["bench", "p.wasm", "--calls", "5", "--json"])
            .ok();
        let again: Value = serde_json::from_str(&again).unwrap();
        for (one, two) in figures.iter().zip(again[0]["figures"].as_array().unwrap()) {
            if one["what"] != "push" {
                assert_eq!(one["p50_fuel"], two["p50_fuel"], "{one} {two}");
            }
        }
        figures
            .iter()
            .map(|it| it["what"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        called("guard-limits"),
        ["instantiate", "configure", "check"]
    );
    assert_eq!(
        called("trim-exchanges"),
        ["instantiate", "configure", "trim"]
    );
    assert_eq!(
        called("prompt-mistral"),
        ["instantiate", "configure", "declare and build"]
    );
    assert_eq!(
        called("cache-exact"),
        ["instantiate", "configure", "decide", "admit"]
    );
    assert_eq!(
        called("filter-redact"),
        ["instantiate", "configure", "open", "push", "finish"]
    );
    let table = desk.run(&["bench", "p.wasm", "--calls", "5"]).ok();
    assert!(
        table.starts_with("HOOK    CALL")
            && table.contains("P99 fuel")
            && table.contains("64.0 MiB are allowed"),
        "{table}"
    );
    desk.put("bad.wasm", Guest::trimmer("bad", "(unreachable)").core());
    desk.run(&["bench", "bad.wasm"])
        .fails("bad.wasm: it trapped");
}

#[test]
fn a_new_project_is_whole_and_replaces_nothing() {
    let desk = Desk::new();
    let new = |name: &str, lang: &str| desk.run(&["new", name, "--hook", "trim", "--lang", lang]);
    new("my-trim", "rust").ok();
    let contract = include_str!("../../wit/policy.wit");
    assert_eq!(
        std::fs::read_to_string(desk.path("my-trim/wit/policy.wit")).unwrap(),
        contract
    );
    let mut files = Vec::new();
    collect(&desk.path("my-trim"), &mut files);
    let mut all = String::new();
    for file in &files {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).unwrap();
        assert!(
            !name.contains("{{") && !text.contains("{{"),
            "{name} has a placeholder left"
        );
        assert!(!name.ends_with(".in"), "{name}");
        all += &text;
    }
    assert!(all.contains("my-trim") && files.len() > 3, "{files:?}");
    assert!(
        std::fs::read_to_string(desk.path("my-trim/Cargo.toml"))
            .unwrap()
            .contains("\"my-trim\"")
    );

    new("my-trim", "rust").fails("my-trim exists already");
    for bad in ["My-trim", "1st", "trim-", "a/b", "..", ""] {
        new(bad, "rust").fails("is no name for a policy");
    }
    let usage = new("other", "cobol");
    assert!(
        usage.status == 2 && usage.err.contains("rust, js, python, c"),
        "{}",
        usage.err
    );
    assert!(!desk.path("other").exists());
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, files),
            false => files.push(path),
        }
    }
}
