//! The choice of CPU code: what crashes when it is tried is ruled out, and nobody tries it again.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use stent::engine::cpu::{Processor, candidates};

use crate::support::server::{command, demo_model, free_port};

/// A program beside its own `lib`, as an installation has it.
struct Installation(tempfile::TempDir);

impl Installation {
    fn new() -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_stent"));
        // On the same file system, so that a link will do.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::hard_link(&program, folder.path().join("stent")).unwrap();
        let library = folder.path().join("lib");
        fs::create_dir(&library).unwrap();
        for file in fs::read_dir(program.with_file_name("lib")).unwrap() {
            let file = file.unwrap();
            symlink(file.path(), library.join(file.file_name())).unwrap();
        }
        Self(folder)
    }

    fn kernels(&self, variant: &str) -> PathBuf {
        self.0.path().join(format!("lib/libggml-cpu-{variant}.so"))
    }

    /// The processor's variants whose files are there, fastest first.
    fn variants(&self) -> Vec<&'static str> {
        let names = candidates(&Processor::here()).into_iter().map(|v| v.name);
        names.filter(|name| self.kernels(name).exists()).collect()
    }

    /// What the program says until it has loaded the model, and finds that its port is taken.
    fn start(&self) -> String {
        let output = Command::new(self.0.path().join("stent"))
            .envs(command().get_envs().filter_map(|(k, v)| Some((k, v?))))
            .args(["serve", "--set", "log.format=human", "--model"])
            .arg(demo_model())
            .args(["--set", "engine.n_ctx=2048", "--set", "engine.mlock=false"])
            // Nothing after the engine can start: the program ends by itself.
            .args(["--set", "policies.trim.config.no_such_key=1", "--data"])
            .arg(self.0.path().join("data"))
            .arg("--policies")
            .arg(self.0.path().join("policies"))
            .args(["--listen", &format!("127.0.0.1:{}", free_port())])
            .args(["--admin", &format!("127.0.0.1:{}", free_port())])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("no_such_key"), "{said}");
        said
    }

    fn remembered(&self) -> String {
        let found = fs::read(self.0.path().join("data/cpu-code.json")).unwrap();
        let found: serde_json::Value = serde_json::from_slice(&found).unwrap();
        found["works"].as_str().unwrap().to_owned()
    }
}

/// A library that kills whoever loads it.
fn crashing(file: &Path) {
    let source = file.with_extension("c");
    let text =
        "#include <stdlib.h>\n__attribute__((constructor)) static void go(void) { abort(); }\n";
    fs::write(&source, text).unwrap();
    fs::remove_file(file).unwrap();
    let compiler = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([file, &source])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&compiler.stderr);
    assert!(compiler.status.success(), "{said}");
}

#[test]
fn code_that_crashes_or_is_none_is_ruled_out_and_the_choice_is_remembered() {
    const RULED_OUT: &str = "this CPU code does not work here, the next one is tried";
    let installed = Installation::new();
    let variants = installed.variants();
    assert!(variants.len() > 2, "too few for this test: {variants:?}");
    crashing(&installed.kernels(variants[0]));
    let junk = installed.kernels(variants[1]);
    fs::remove_file(&junk).unwrap();
    fs::write(&junk, "no library at all").unwrap();

    let said = installed.start();
    assert_eq!(said.matches(RULED_OUT).count(), 2, "{said}");
    for variant in &variants[..2] {
        assert!(
            said.contains(&format!("libggml-cpu-{variant}.so")),
            "{said}"
        );
    }
    assert_eq!(installed.remembered(), variants[2]);

    let again = installed.start();
    assert!(
        !again.contains(RULED_OUT),
        "nothing is tried again: {again}"
    );
    assert!(
        again.contains("CPU code chosen") && again.contains(variants[2]),
        "{again}"
    );

    // Another file is another finding.
    fs::write(&junk, "no library at all, and longer").unwrap();
    let said = installed.start();
    assert_eq!(said.matches(RULED_OUT).count(), 2, "{said}");
}
