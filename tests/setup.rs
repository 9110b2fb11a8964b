//! The script that installs what building needs, on machines that lack it: its tools are stood in
//! for by small scripts, so that nothing is installed here.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output};

/// A folder that is the whole PATH: real `sh`, `id` that says so, and the given stand-ins.
fn run(root: bool, tools: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for real in ["sh", "ls", "env", "cat"] {
        let found = ["/usr/bin", "/bin"].map(|dir| Path::new(dir).join(real));
        symlink(found.iter().find(|p| p.exists()).unwrap(), path(real)).unwrap();
    }
    let id = ("id", if root { "echo 0" } else { "echo 1000" });
    for (name, body) in tools.iter().chain([&id, &("cargo", "true")]) {
        std::fs::write(path(name), format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/setup/packages.sh");
    let mut command = Command::new("/bin/sh");
    command.arg(script).env_clear().env("PATH", folder.path());
    command.output().unwrap()
}

fn said(output: &Output) -> (bool, String) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn missing_packages_are_installed_with_sudo_when_not_root() {
    let apt = ("apt-get", "echo apt-get \"$@\"");
    let sudo = ("sudo", "echo with sudo; exec \"$@\"");
    for root in [true, false] {
        let (good, text) = said(&run(root, &[apt, sudo]));
        assert!(good, "{text}");
        assert_eq!(text.contains("with sudo"), !root, "{text}");
        let install = text.lines().find(|line| line.contains("apt-get install"));
        let install = install.unwrap_or_else(|| panic!("nothing was installed: {text}"));
        assert!(install.contains("cmake clang"), "{install}");
    }
}

#[test]
fn where_nothing_can_be_installed_the_packages_are_named() {
    let apt = ("apt-get", "true");
    let failing = ("apt-get", "exit 100");
    for (root, tools, reason) in [
        (true, vec![], "this system has no apt-get"),
        (false, vec![apt], "you are not root and there is no sudo"),
        (true, vec![failing], "apt-get update failed"),
    ] {
        let (good, text) = said(&run(root, &tools));
        assert!(!good, "{text}");
        let line = text.lines().last().unwrap();
        assert!(line.contains(reason), "{line}");
        assert!(
            line.contains("install these packages and try again: cmake clang"),
            "{line}"
        );
    }
}

#[test]
fn nothing_happens_where_all_is_there() {
    let there = ["cmake", "clang", "g++", "cc"].map(|name| (name, "true"));
    // libclang is looked for under /usr/lib, where this machine has it: it built llama.cpp.
    let (good, text) = said(&run(false, &there));
    assert!(good && text.is_empty(), "{text}");
}
