//! Projects of `stent policy new`: those in Rust are built here. `tests/templates.sh` builds every
//! language as an author would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cli::Desk;

const HOOKS: [&str; 5] = ["guard", "trim", "prompt", "cache", "filter"];
const LANGUAGES: [&str; 4] = ["rust", "js", "python", "c"];

fn templates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/templates")
}

/// Runs a tool in a project. What the bundled policies were built from is used again, so only the
/// policy itself is compiled, and nothing is fetched.
#[track_caller]
fn build(project: &Path, program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .current_dir(project)
        .env("CARGO_TARGET_DIR", templates().join("../target"))
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("MAKEFLAGS")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !said.contains("warning: "),
        "{program} {args:?} in {}:\n{said}",
        project.display()
    );
}

#[test]
fn rust_projects_build_keep_the_contract_and_pass_their_cases() {
    for hook in HOOKS {
        let desk = Desk::new();
        let name = format!("zz-{hook}");
        desk.run(&["new", &name, "--hook", hook, "--lang", "rust"])
            .ok();
        let project = desk.path(&name);
        build(&project, "cargo", &["fmt", "--check"]);
        build(&project, "make", &[]);

        let file = format!("{name}/{name}.wasm");
        let checked = desk.run(&["check", &file]).ok();
        assert!(
            checked.contains(&format!("policy     {name} 0.1.0: ")),
            "{checked}"
        );
        let tested = desk.run(&["test", &file]).ok();
        let cases = if hook == "cache" { 6 } else { 4 };
        let all = format!("{cases} ok, 0 failed, 0 skipped");
        assert!(tested.contains(&all), "{tested}");

        let set = |key_and_value: &str| format!("policies.{hook}.config.{key_and_value}");
        let mistake = desk.run(&["check", &file, "--set", &set("nonsense=1")]);
        mistake.fails("config.nonsense: unknown key, expected one of \"");
        if let Some((key, range)) = number(hook) {
            let mistake = desk.run(&["check", &file, "--set", &set(&format!("{key}=0"))]);
            mistake.fails(&format!(
                "config.{key}: found 0, expected a whole number from {range}"
            ));
        }
    }
}

/// The number that a hook's template is configured with, and its range.
fn number(hook: &str) -> Option<(&'static str, &'static str)> {
    match hook {
        "guard" => Some(("max_chars", "1 to 100000")),
        "trim" => Some(("messages", "1 to 1000")),
        "cache" => Some(("ttl_seconds", "1 to 604800")),
        _ => None,
    }
}

#[test]
fn languages_share_settings_and_cases() {
    for hook in HOOKS {
        for file in ["config.schema.json", "{{name}}.cases.json"] {
            let of = |lang: &str| {
                let path = templates().join(lang).join(hook).join(file);
                fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            };
            let rust = of("rust");
            for lang in LANGUAGES {
                assert_eq!(
                    of(lang),
                    rust,
                    "{hook}/{file} of {lang} differs from that of rust"
                );
            }
        }
    }
}

#[test]
fn rust_projects_lock_what_the_bundled_policies_lock() {
    let lock = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let packages = text.split("[[package]]\n").skip(1);
        let line = |package: &str, at| package.lines().nth(at).unwrap_or_default().to_owned();
        let pairs = packages.map(|package| (line(package, 0), line(package, 1)));
        pairs.collect::<Vec<_>>()
    };
    let bundled = lock(templates().join("../Cargo.lock"));
    for package in lock(templates().join("rust/common/Cargo.lock")) {
        let own = package.0.contains("{{name}}");
        assert!(
            own || bundled.contains(&package),
            "{package:?} is not in plugins/Cargo.lock"
        );
    }
}
