//! `stent policy …`: the real binary, with components good and bad.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::guest::{Guest, keeper};
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
    let history = ask(&["history", "trim"]).ok();
    assert!(
        history.starts_with("REVISION") && history.contains("promoted: "),
        "{history}"
    );
    desk.put("config.json", "{\"any\": 1}");
    let config = desk.path("config.json");
    let told = ask(&["configure", "trim", "--file", config.to_str().unwrap()]).ok();
    assert!(
        told.contains("until the gateway is started again"),
        "{told}"
    );
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
