//! `stent doctor` on this machine, before and while a gateway serves, and the texts that clap makes.

use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::redis::RedisServer;
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
fn a_redis_that_does_not_let_the_gateway_in_is_bad_and_no_password_is_shown() {
    let mut redis = RedisServer::start();
    redis.ask(&["config", "set", "requirepass", "right"]);
    let folder = tempfile::tempdir().unwrap();
    let told = |login: &str, more: &[&str]| {
        let url = redis.url().replace("redis://", &format!("redis://{login}"));
        let store = format!("sessions.store={url}");
        let (listen, admin) = free();
        let extra = [&["--json", "--quick", "--set", &store], more].concat();
        let output = doctor(folder.path(), (&listen, &admin), &extra);
        let line = line(&report(&output), "redis").clone();
        assert!(!line.to_string().contains("secret"), "{line}");
        line
    };
    for login in ["", ":secret@", "nobody:secret@"] {
        let line = told(login, &[]);
        assert_eq!(line["level"], "bad", "{login}: {line}");
        let todo = line["todo"].as_str().unwrap();
        assert!(
            todo.starts_with("correct user and password in sessions.store"),
            "{todo}"
        );
    }
    let right = told(":right@", &[]);
    assert_eq!(right["level"], "good", "{right}");
    // It is there and lets the gateway in, to a database that it does not have.
    let url = redis.url().replace("/0", "/99");
    let store = format!(
        "sessions.store={}",
        url.replace("redis://", "redis://:right@")
    );
    let (listen, admin) = free();
    let output = doctor(
        folder.path(),
        (&listen, &admin),
        &["--json", "--quick", "--set", &store],
    );
    assert_eq!(line(&report(&output), "redis")["level"], "bad");
    // The answer cache's, too.
    let store = format!(
        "cache.store={}",
        redis.url().replace("redis://", "redis://:wrong@")
    );
    let (listen, admin) = free();
    let extra = ["--json", "--quick", "--set", &store];
    let output = doctor(folder.path(), (&listen, &admin), &extra);
    assert_eq!(line(&report(&output), "redis")["level"], "bad");
    redis.kill();
    let gone = |more: &[&str]| {
        let store = format!("sessions.store={url}");
        let (listen, admin) = free();
        let extra = [&["--json", "--quick", "--set", &store], more].concat();
        let output = doctor(folder.path(), (&listen, &admin), &extra);
        line(&report(&output), "redis")["level"].clone()
    };
    assert_eq!(gone(&[]), "bad", "every request would be refused");
    let local = ["--set", "sessions.on_store_failure=local"];
    assert_eq!(gone(&local), "warn");
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

/// The certificate of `server.tls_cert` is the gateway's own: whether it is alive can be asked.
#[tokio::test]
async fn a_gateway_with_a_certificate_and_a_token_is_asked_too() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["stent.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let file = |name: &str, text: String| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).display().to_string()
    };
    let digest = {
        use sha2::Digest as _;
        hex::encode(sha2::Sha256::digest("the token"))
    };
    let sets = [
        "engine.kind=scripted".to_owned(),
        format!("server.tls_cert={}", file("cert.pem", certificate.pem())),
        format!("server.tls_key={}", file("key.pem", key.serialize_pem())),
        format!("server.admin_token={digest}"),
    ];
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let server = Server::launch(&sets, |_| {});
    let run = |command_name: &str, extra: &[&str], token: Option<&str>| {
        let address = |url: &str| url.trim_start_matches("http://").to_owned();
        let mut command = command();
        command.arg(command_name).args(extra);
        command.args(["--listen", &address(&server.base)]);
        command.args(["--admin", &address(&server.admin)]);
        command.arg("--policies").arg(server.policies());
        command.arg("--data").arg(server.folder.path().join("data"));
        for set in &sets {
            command.args(["--set", set]);
        }
        if let Some(token) = token {
            command.env("STENT_ADMIN_TOKEN", token);
        }
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    server
        .until("stent health says that it is ready", async |_| {
            run("health", &["--ready"], None)
                .await
                .unwrap()
                .status
                .success()
        })
        .await;
    for (token, seen) in [
        (None, false),
        (Some("wrong"), false),
        (Some("the token"), true),
    ] {
        let output = run("doctor", &["--json", "--quick"], token).await.unwrap();
        let report = report(&output);
        assert_eq!(line(&report, "tls")["level"], "good", "{report}");
        let running = line(&report, "running");
        assert!(
            running["found"].as_str().unwrap().contains("is ready"),
            "{report}"
        );
        assert_eq!(running.to_string().contains("resident"), seen, "{report}");
        assert_eq!(
            report.to_string().contains("STENT_ADMIN_TOKEN"),
            !seen,
            "{report}"
        );
    }
}

#[tokio::test]
async fn upstreams_are_asked_with_their_keys_for_the_model() {
    let digest = {
        use sha2::Digest as _;
        hex::encode(sha2::Sha256::digest("right"))
    };
    let keys = format!("server.keys=[{{ tenant = \"a\", sha256 = \"{digest}\" }}]");
    let behind = Server::start(&["engine.kind=scripted", &keys]).await;
    let nobody = format!("http://127.0.0.1:{}/v1", free_port());
    let look = |upstreams: String, extra: Vec<String>| {
        let folder = tempfile::tempdir().unwrap();
        tokio::task::spawn_blocking(move || {
            let (listen, admin) = free();
            let upstreams = format!("engine.upstreams={upstreams}");
            let mut arguments = vec!["--json", "--quick", "--set", "engine.kind=openai"];
            arguments.extend(["--set", &upstreams]);
            for set in &extra {
                arguments.extend(["--set", set]);
            }
            report(&doctor(folder.path(), (&listen, &admin), &arguments))
        })
    };
    let one = |key: &str| {
        format!(
            "[{{ url = \"{}/v1\", key = \"{key}\" }}, \"{nobody}\"]",
            behind.base
        )
    };
    let levels = |report: &Value| {
        let lines = report["lines"].as_array().unwrap().iter();
        let lines = lines.filter(|line| line["check"] == "upstream");
        lines
            .map(|line| line["level"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let found = look(one("right"), vec![]).await.unwrap();
    assert_eq!(levels(&found), ["good", "warn"], "{found}");
    assert!(
        line(&found, "upstream.tokenizer")["found"]
            .as_str()
            .unwrap()
            .contains("estimated")
    );
    let found = look(one("wrong"), vec![]).await.unwrap();
    assert_eq!(levels(&found), ["bad", "bad"], "{found}");
    assert!(
        line(&found, "upstream").to_string().contains("401"),
        "{found}"
    );
    let other = vec!["engine.upstream.model=biomistral-7b".to_owned()];
    let found = look(one("right"), other).await.unwrap();
    assert!(
        line(&found, "upstream")
            .to_string()
            .contains("only scripted"),
        "{found}"
    );
    let lost = vec!["engine.upstream.tokenizer=/nowhere.gguf".to_owned()];
    let found = look(one("right"), lost).await.unwrap();
    assert_eq!(
        line(&found, "upstream.tokenizer")["level"],
        "bad",
        "{found}"
    );
    let keyless = format!("[{{ url = \"{nobody}\", key_file = \"/nowhere/key\" }}]");
    let found = look(keyless, vec![]).await.unwrap();
    assert!(
        line(&found, "upstream")
            .to_string()
            .contains("/nowhere/key"),
        "{found}"
    );
}
