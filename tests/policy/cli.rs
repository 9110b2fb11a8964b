//! `stent policy …`: the real binary, with components good and bad.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::guest::{Guest, keeper};
use super::support::plugin;
use crate::support::server::{Server, command, free_port};

/// What a command printed, and its exit status.
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{}\n{}", self.out, self.err);
        self.out
    }

    /// One sentence on standard error.
    #[track_caller]
    pub fn fails(self, with: &str) -> String {
        assert_eq!(self.status, 1, "{}\n{}", self.out, self.err);
        assert_eq!(self.err.trim_end().lines().count(), 1, "{}", self.err);
        assert!(
            self.err.starts_with("stent: ") && self.err.contains(with),
            "{}",
            self.err
        );
        self.out
    }
}

/// A folder to work in; the command's own scratch folder lies in it too.
pub struct Desk(tempfile::TempDir);

impl Desk {
    pub fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(desk.path("tmp")).unwrap();
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub fn policy(&self, args: &[&str]) -> Command {
        let mut command = command();
        command.arg("policy").args(args);
        command.current_dir(&self.0).env("TMPDIR", self.path("tmp"));
        command
    }

    /// Runs `stent policy ARGS` here.
    pub fn run(&self, args: &[&str]) -> Ran {
        let output = self.policy(args).output().unwrap();
        let left: Vec<_> = std::fs::read_dir(self.path("tmp")).unwrap().collect();
        assert!(left.is_empty(), "{args:?} left something behind: {left:?}");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran {
            status: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

#[tokio::test]
async fn a_running_gateway_is_listed_rolled_back_promoted_and_audited() {
    let server = Server::start(&["engine.kind=scripted"]).await;
    let desk = Desk::new();
    let admin = server.admin.trim_start_matches("http://").to_owned();
    let ask = |args: &[&str]| desk.run(&[args, &["--admin", &admin]].concat());
    let listed = async |part: &str| {
        let shown = |_: &Server| std::future::ready(ask(&["list"]).ok().contains(part));
        server.until(part, shown).await;
    };
    let put = |name: &str, bytes: &[u8]| {
        let half = server.policies().join(".half");
        std::fs::write(&half, bytes).unwrap();
        std::fs::rename(half, server.policies().join(name)).unwrap();
    };
    put("t.wasm", &keeper("first"));
    listed("first").await;
    put("t.wasm", &keeper("second"));
    put("broken.wasm", b"no wasm at all");
    listed("second").await;
    listed("contract: is not WebAssembly").await;

    let list = ask(&["list"]).ok();
    let header = list.lines().next().unwrap();
    assert!(!list.contains('\x1b'), "colour is for terminals: {list}");
    // Columns stand under their titles.
    let column = header.find("POLICY").unwrap();
    let live = list.lines().find(|line| line.contains("live")).unwrap();
    assert!(
        live.starts_with("trim ") && live[column..].starts_with("second "),
        "{list}"
    );
    let json: Value = serde_json::from_str(&ask(&["list", "--json"]).ok()).unwrap();
    assert!(json.as_array().unwrap().len() > 5, "{json}");

    let back = ask(&["rollback", "trim"]).ok();
    assert!(back.contains("trim hook is served by first"), "{back}");
    // What was rolled back would be refused again, as a dry run knows without asking the gateway.
    let (file, data) = (
        server.policies().join("t.wasm"),
        server.folder.path().join("data"),
    );
    let set = format!("data.dir={}", data.display());
    let tried = desk.run(&["dry-run", file.to_str().unwrap(), "--set", &set]);
    assert!(
        tried
            .fails("does not pass verify")
            .contains("was rolled back (asked for)")
    );

    put("next.shadow.wasm", &keeper("next"));
    listed("compared with the live policy").await;
    let promoted = ask(&["promote", "trim"]).ok();
    assert!(
        promoted.contains("trim hook is served by next"),
        "{promoted}"
    );
    ask(&["promote", "trim"]).fails("refused: hook: the trim policy cannot be promoted");
    let audit = ask(&["audit"]).ok();
    assert!(
        audit.starts_with("WHEN") && audit.contains("rolled-back  trim  api"),
        "{audit}"
    );

    let public = server.base.trim_start_matches("http://");
    desk.run(&["list", "--admin", public])
        .fails("expected the admin address of a gateway");
}

#[test]
fn without_a_gateway_the_address_is_named() {
    let address = format!("127.0.0.1:{}", free_port());
    let error = format!("no gateway answers at {address}: start one with `stent serve`");
    for command in [
        &["list"][..],
        &["rollback", "trim"],
        &["promote", "trim"],
        &["audit"],
    ] {
        Desk::new()
            .run(&[command, &["--admin", &address]].concat())
            .fails(&error);
    }
}

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
            "componentize: imports fd_write of wasi_snapshot_preview1, and a policy may import only",
            "wit-bindgen",
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
fn a_dry_run_asks_everything_that_the_gateway_would() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("policies")).unwrap();
    desk.put("t.wasm", keeper("mine"));
    let dry = |sets: &[&str]| {
        let mut args = vec!["dry-run", "t.wasm"];
        sets.iter().for_each(|set| args.extend(["--set", set]));
        desk.run(&args)
    };
    let stages: Vec<String> = dry(&[])
        .ok()
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            assert_eq!(words.next(), Some("ok"), "{line}");
            words.next().unwrap().to_owned()
        })
        .collect();
    let all =
        "verify componentize contract compile instantiate describe configure self-test cases swap";
    assert_eq!(stages.join(" "), all);
    assert!(
        !desk.path("data").exists(),
        "nothing that serves is touched"
    );

    let sha = "0".repeat(64);
    let pinned = dry(&[&format!("policies.trim.pin={sha:?}")]);
    assert!(
        pinned
            .fails("does not pass verify")
            .contains("policies.trim.pin allows only 000")
    );

    desk.put("t.cases.json", CASE.replace("KEPT", "[1]"));
    let golden = dry(&[]).fails("does not pass cases");
    assert!(
        golden.contains(r#"it answered {"kept":[0,1]}, expected {"kept":[1]}"#),
        "{golden}"
    );
    desk.put("t.cases.json", CASE.replace("KEPT", "[0, 1]"));
    assert!(dry(&[]).ok().contains("1 golden cases"));

    desk.put("policies/other.wasm", keeper("other"));
    let rival = dry(&[]).fails("does not pass swap");
    assert!(
        rival.contains("policies/other.wasm serves already"),
        "{rival}"
    );
    // A file of the same name would be replaced.
    std::fs::rename(
        desk.path("policies/other.wasm"),
        desk.path("policies/t.wasm"),
    )
    .unwrap();
    dry(&[]).ok();

    desk.put(
        "t.wasm",
        Guest::trimmer("t", "(i32.const 1024)")
            .configure("(unreachable)")
            .core(),
    );
    let trapped = dry(&[]).fails("does not pass configure");
    let lines: Vec<_> = trapped.lines().collect();
    assert!(lines[5].starts_with("ok      describe"), "{trapped}");
    assert!(
        lines[6].starts_with("failed  configure     it trapped"),
        "{trapped}"
    );
}

pub const CASE: &str = r#"[{"name": "both", "hook": "trim", "expect": {"kept": KEPT},
    "messages": [{"role": "user", "text": "a"}, {"role": "user", "text": "b"}]}]"#;

#[test]
fn what_was_signed_serves_and_nothing_else() {
    let desk = Desk::new();
    desk.put("t.wasm", keeper("signed"));
    let keys = desk.run(&["keygen", "key"]).ok();
    let mode = std::fs::metadata(desk.path("key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = std::fs::read(desk.path("key")).unwrap();
    desk.run(&["keygen", "key"]).fails("key exists already");
    assert_eq!(std::fs::read(desk.path("key")).unwrap(), before);

    // What keygen prints is a configuration.
    let (_, config) = keys.split_once("\n\n").unwrap();
    desk.put("stent.toml", config);
    let dry = || desk.run(&["dry-run", "t.wasm", "--config", "stent.toml"]);
    assert!(
        dry()
            .fails("does not pass verify")
            .contains("t.wasm.sig: No such file")
    );
    desk.run(&["sign", "t.wasm", "--key", "key"]).ok();
    assert!(dry().ok().contains("signed by a trusted key"));
    desk.put("t.wasm", keeper("forged"));
    assert!(
        dry()
            .fails("does not pass verify")
            .contains("not a signature of this file")
    );

    std::fs::set_permissions(desk.path("key"), PermissionsExt::from_mode(0o644)).unwrap();
    desk.run(&["sign", "t.wasm", "--key", "key"])
        .fails("key has mode 644, expected 600");
    std::fs::set_permissions(desk.path("key"), PermissionsExt::from_mode(0o600)).unwrap();
    desk.put("key", "not a key");
    desk.run(&["sign", "t.wasm", "--key", "key"])
        .fails("does not hold 64 hex digits");
}

#[test]
fn bench_times_every_call_and_meets_faults() {
    let desk = Desk::new();
    let called = |name: &str| -> Vec<String> {
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
        table.starts_with("HOOK    CALL") && table.contains("64.0 MiB are allowed"),
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
