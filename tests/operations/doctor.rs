//! `stent doctor` on this machine, before and while a gateway serves, and the texts that clap makes.

use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::server::{Server, bundled, command, demo_model, free_port};

/// Runs it with ports, folders and model of its own.
fn doctor(folder: &Path, ports: (&str, &str), extra: &[&str]) -> Output {
    let mut command = command();
    command.arg("doctor").args(extra);
    command.args(["--listen", ports.0, "--admin", ports.1]);
    command.arg("--policies").arg(folder.join("policies"));
    command.arg("--data").arg(folder.join("data"));
    command.arg("--model").arg(demo_model());
    command.args(["--set", "engine.n_ctx=2048"]);
    command.output().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn line<'a>(report: &'a Value, check: &str) -> &'a Value {
    let lines = report["lines"].as_array().unwrap();
    let found = lines.iter().find(|line| line["check"] == check);
    found.unwrap_or_else(|| panic!("no {check} in {report}"))
}

fn free() -> (String, String) {
    let address = || format!("127.0.0.1:{}", free_port());
    (address(), address())
}

#[test]
fn before_serving_every_line_is_there_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (listen, admin) = free();
    let output = doctor(folder.path(), (&listen, &admin), &["--json"]);
    let report = report(&output);
    for check in [
        "config",
        "cpu.cores",
        "cpu.code",
        "memory.ram",
        "memory.lock",
        "memory.thp",
        "limits.files",
        "disk.data",
        "port.listen",
        "port.admin",
        "model.file",
        "model.hash",
        "model.architecture",
        "model.context",
        "model.template",
        "policies",
        "collector",
    ] {
        let line = line(&report, check);
        let good = line["level"] == "good";
        assert_eq!(good, line.get("todo").is_none(), "{line}");
    }
    for check in ["cpu.code", "port.listen", "model.hash", "model.template"] {
        let line = line(&report, check);
        assert_ne!(line["level"], "bad", "{line}");
    }
    assert_eq!(line(&report, "model.hash")["level"], "good", "{report}");
    assert_eq!(i64::from(output.status.code().unwrap()), report["exit"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_is_bad_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    std::fs::write(policies.join("broken.wasm"), b"this is no policy").unwrap();
    std::fs::write(policies.join("good.wasm"), bundled("trim-exchanges")).unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || drop(other.accept()));
    let (_, admin) = free();
    let output = doctor(folder.path(), (&taken, &admin), &["--quick"]);
    answering.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    let told = |what: &str| text.lines().any(|line| line.contains(what));
    assert!(
        told(&format!("{taken} is taken by another program")),
        "{text}"
    );
    assert!(told("-> end it, or choose another server.listen"), "{text}");
    assert!(told("broken.wasm: "), "{text}");
    assert!(told("good.wasm: would serve trim"), "{text}");
    assert!(!told("model.hash"), "--quick hashes nothing: {text}");
    assert!(
        !text.contains('\x1b'),
        "no colour where there is no terminal"
    );
}

#[test]
fn a_mistake_in_the_configuration_is_a_bad_line() {
    let mut command = command();
    command.args(["doctor", "--json", "--set", "engine.sloots=4"]);
    let output = command.output().unwrap();
    let report = report(&output);
    assert_eq!(output.status.code(), Some(2));
    let line = line(&report, "config");
    assert!(line["found"].as_str().unwrap().contains("sloots"), "{line}");
}

#[tokio::test]
async fn while_serving_the_gateway_itself_is_asked() {
    let server = Server::start(&["engine.slots=1"]).await;
    let address = |url: &str| url.trim_start_matches("http://").to_owned();
    let (listen, admin) = (address(&server.base), address(&server.admin));
    let folder = server.folder.path().to_owned();
    let output = tokio::task::spawn_blocking(move || {
        doctor(&folder, (&listen, &admin), &["--json", "--quick"])
    });
    let report = report(&output.await.unwrap());
    for check in ["port.listen", "port.admin"] {
        let line = line(&report, check);
        assert_eq!(line["level"], "good", "{line}");
        assert!(line["found"].as_str().unwrap().contains("running Stent"));
    }
    let running = line(&report, "running");
    assert_eq!(running["level"], "good", "{running}");
    assert!(running["found"].as_str().unwrap().contains("resident"));
}

#[test]
fn shells_and_man_pages_come_from_the_same_source() {
    let said = |args: &[&str]| {
        let output = command().args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        let script = said(&["completions", shell]);
        assert!(script.contains("doctor") && script.contains("check-config"));
    }
    assert!(said(&["man"]).starts_with(".ie"));
    let folder = tempfile::tempdir().unwrap();
    said(&["man", "--dir", folder.path().to_str().unwrap()]);
    let page = std::fs::read_to_string(folder.path().join("stent-doctor.1")).unwrap();
    assert!(page.contains("\\-\\-quick"), "{page}");
}

#[test]
fn this_build_says_that_it_has_no_gpu_code() {
    let mut command = command();
    command.args(["serve", "--check-config", "--set", "engine.gpu_layers=9"]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        text.contains("engine.gpu_layers: 9, expected 0: this build has CPU code only"),
        "{text}"
    );
}
