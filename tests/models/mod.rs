//! `stent models` against servers that cut, stall, lie and change their minds.

mod server;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use sha2::{Digest, Sha256};
use stent::models::{self, ModelError, ModelsArgs};
use tempfile::TempDir;

use server::{Answer, Server};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    models: ModelsArgs,
}

/// A models folder and a manifest whose one model, `m`, is served by `server`.
struct Setup {
    server: Server,
    dir: TempDir,
}

impl Setup {
    fn new(sha256: Option<&str>, answers: impl IntoIterator<Item = Answer>) -> Self {
        let server = Server::start(answers);
        let dir = TempDir::new().unwrap();
        let hash = sha256.map_or(String::new(), |hash| format!("sha256 = \"{hash}\"\n"));
        let manifest = format!(
            "[[model]]\nname = \"m\"\nabout = \"a test\"\nsource = \"{}\"\nrepository = \"o/r\"\n\
             file = \"m.gguf\"\nsize = 100000\nlicence = \"MIT\"\n{hash}",
            server.url()
        );
        fs::write(dir.path().join("manifest.toml"), manifest).unwrap();
        Self { server, dir }
    }

    fn run(&self, args: &str) -> Result<String, ModelError> {
        let mut words = vec!["models".to_owned()];
        words.extend(args.split_whitespace().map(str::to_owned));
        words.extend(["--dir".to_owned(), self.dir.path().display().to_string()]);
        words.extend([
            "--manifest".to_owned(),
            self.path("manifest.toml").display().to_string(),
        ]);
        let cli = Cli::parse_from(words);
        let mut out = Vec::new();
        models::run(&cli.models, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The file is there, whole, and nothing else was left behind.
    fn assert_whole(&self, body: &[u8]) {
        assert!(
            fs::read(self.path("m.gguf")).unwrap() == body,
            "other bytes than were served"
        );
        self.assert_no_part();
        assert!(
            self.run("list")
                .unwrap()
                .lines()
                .any(|l| l.starts_with('m') && l.ends_with("yes"))
        );
    }

    fn assert_no_part(&self) {
        assert!(!self.path("m.gguf.part").exists());
        assert!(!self.path("m.gguf.part.etag").exists());
    }
}

fn body(seed: u8) -> Vec<u8> {
    (0..100_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed)
        .collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[test]
fn a_model_is_pulled_checked_and_listed() {
    let body = body(1);
    let setup = Setup::new(Some(&sha256(&body)), [Answer::whole(&body)]);
    assert!(setup.run("list").unwrap().contains("no       -"));
    let report = setup.run("pull m").unwrap();
    assert!(
        report.contains(&format!("sha256 {}, as expected", sha256(&body))),
        "{report}"
    );
    setup.assert_whole(&body);
    assert!(setup.run("verify").unwrap().starts_with("m: ok"));
    let again = setup.run("pull m").unwrap();
    assert!(again.contains("already here"), "{again}");
    assert_eq!(
        setup.server.ranges().len(),
        1,
        "nothing was downloaded twice"
    );
}

#[test]
fn a_cut_connection_is_taken_up_where_it_broke() {
    let body = body(2);
    let whole = Answer::whole(&body);
    let answers = [whole.clone().cut(30_000), whole.clone().cut(20_000), whole];
    let setup = Setup::new(Some(&sha256(&body)), answers);
    setup.run("pull m").unwrap();
    setup.assert_whole(&body);
    let asked: Vec<_> = setup.server.ranges().into_iter().flatten().collect();
    assert_eq!(asked, ["bytes=30000-", "bytes=50000-"]);
}

#[test]
fn a_later_run_goes_on_where_an_earlier_one_gave_up() {
    let body = body(3);
    let whole = Answer::whole(&body);
    let answers = [whole.clone().cut(40_000), whole];
    let setup = Setup::new(Some(&sha256(&body)), answers);
    let error = setup.run("pull m --retries 0").unwrap_err().to_string();
    assert!(error.contains("40000 bytes are kept"), "{error}");
    assert!(!setup.path("m.gguf").exists());
    setup.run("pull m").unwrap();
    setup.assert_whole(&body);
    assert_eq!(setup.server.ranges()[1].as_deref(), Some("bytes=40000-"));
}

#[test]
fn a_server_without_ranges_is_asked_from_the_start() {
    let body = body(4);
    let whole = Answer {
        ranges: false,
        ..Answer::whole(&body)
    };
    let setup = Setup::new(Some(&sha256(&body)), [whole.clone().cut(60_000), whole]);
    setup.run("pull m").unwrap();
    setup.assert_whole(&body);
}

#[test]
fn a_file_without_an_etag_is_never_pieced_together() {
    let body = body(5);
    let whole = Answer {
        etag: None,
        ..Answer::whole(&body)
    };
    let setup = Setup::new(Some(&sha256(&body)), [whole.clone().cut(60_000), whole]);
    setup.run("pull m").unwrap();
    setup.assert_whole(&body);
    assert_eq!(setup.server.ranges(), [None, None]);
}

#[test]
fn a_file_that_changed_meanwhile_is_fetched_anew() {
    let (old, new) = (body(6), body(7));
    let changed = Answer {
        etag: Some("\"two\""),
        ..Answer::whole(&new)
    };
    let setup = Setup::new(
        Some(&sha256(&new)),
        [Answer::whole(&old).cut(50_000), changed],
    );
    setup.run("pull m").unwrap();
    setup.assert_whole(&new);
}

#[test]
fn wrong_bytes_are_thrown_away() {
    let (right, wrong) = (body(8), body(9));
    let setup = Setup::new(Some(&sha256(&right)), [Answer::whole(&wrong)]);
    let error = setup.run("pull m").unwrap_err();
    assert!(matches!(error, ModelError::WrongBytes { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&sha256(&wrong)) && text.contains(&sha256(&right)),
        "{text}"
    );
    assert!(!setup.path("m.gguf").exists());
    setup.assert_no_part();
}

#[test]
fn a_server_in_trouble_is_asked_again() {
    let body = body(10);
    let whole = Answer::whole(&body);
    let stalled = Answer {
        stall: Duration::from_secs(3),
        ..whole.clone().cut(10_000)
    };
    let answers = [
        Answer {
            status: 503,
            ..whole.clone()
        },
        stalled,
        whole,
    ];
    let setup = Setup::new(Some(&sha256(&body)), answers);
    setup.run("pull m --timeout 1").unwrap();
    setup.assert_whole(&body);
}

#[test]
fn a_missing_file_is_said_at_once() {
    let setup = Setup::new(
        Some(&sha256(b"")),
        [Answer {
            status: 404,
            ..Answer::whole(b"gone")
        }],
    );
    let error = setup.run("pull m").unwrap_err().to_string();
    assert!(
        error.contains("/o/r/resolve/main/m.gguf: the server answered 404"),
        "{error}"
    );
    assert_eq!(setup.server.ranges().len(), 1);
}

#[test]
fn an_unknown_hash_needs_trust_and_is_then_held_to() {
    let (first, other) = (body(11), body(12));
    let setup = Setup::new(None, [Answer::whole(&first), Answer::whole(&other)]);
    let error = setup.run("pull m").unwrap_err();
    assert!(matches!(error, ModelError::NoHash { .. }), "{error}");
    assert_eq!(
        setup.server.ranges().len(),
        0,
        "nothing is fetched before it is trusted"
    );

    setup.run("pull m --trust-first-use").unwrap();
    setup.assert_whole(&first);
    assert!(
        fs::read_to_string(setup.path("models.lock"))
            .unwrap()
            .contains(&sha256(&first))
    );

    // Gone, and the server now has something else: the recorded hash stands.
    fs::remove_file(setup.path("m.gguf")).unwrap();
    let error = setup.run("pull m --trust-first-use").unwrap_err();
    assert!(matches!(error, ModelError::WrongBytes { .. }), "{error}");
}

#[test]
fn a_file_that_changed_on_disk_is_found_out() {
    let body = body(13);
    let setup = Setup::new(Some(&sha256(&body)), [Answer::whole(&body)]);
    setup.run("pull m").unwrap();
    let mut broken = body.clone();
    broken[50_000] ^= 1;
    fs::write(setup.path("m.gguf"), &broken[..99_999]).unwrap();
    assert!(setup.run("list").unwrap().contains("no, changed since"));
    let error = setup.run("verify").unwrap_err();
    assert!(matches!(error, ModelError::Verify(1)), "{error}");
    let error = setup.run("pull m").unwrap_err().to_string();
    assert!(error.contains("move it away"), "{error}");
}

#[test]
fn two_downloads_of_one_model_do_not_mix() {
    let setup = Setup::new(Some(&sha256(b"")), [Answer::whole(b"")]);
    let part = fs::File::create(setup.path("m.gguf.part")).unwrap();
    part.lock().unwrap();
    let error = setup.run("pull m").unwrap_err();
    assert!(matches!(error, ModelError::Busy { .. }), "{error}");
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let setup = Setup::new(None, [Answer::whole(b"")]);
    let error = setup.run("pull x").unwrap_err().to_string();
    assert_eq!(error, "no model is called \"x\", expected one of m");
}
