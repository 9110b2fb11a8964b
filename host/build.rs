//! Puts llama.cpp's shared libraries where the binary looks for them: a folder `lib` beside it.

use std::path::PathBuf;
use std::{env, fs, io};

/// Processor families whose kernels are never loaded: see build/cpu-variants.cmake.
const UNUSED: [&str; 6] = [
    "cpu-x64",
    "ivybridge",
    "piledriver",
    "cannonlake",
    "cooperlake",
    "sapphirerapids",
];

include!("build/plugins.rs");
include!("build/templates.rs");

fn main() -> io::Result<()> {
    embed_plugins();
    embed_templates()?;
    println!("cargo:rustc-env=STENT_VERSION={}", version());
    println!("cargo:rerun-if-changed=build.rs");
    // Set by llama-cpp-sys-2: the folder with one file of CPU kernels for every processor family.
    println!("cargo:rerun-if-env-changed=DEP_LLAMA_BACKENDS_DIR");
    if let Some(kernels) = env::var_os("DEP_LLAMA_BACKENDS_DIR").map(PathBuf::from) {
        let built = kernels.parent().map(Path::to_path_buf).unwrap_or_default();
        let beside = profile_folder()?.join("lib");
        fs::create_dir_all(&beside)?;
        for folder in [built.join("lib"), built.join("lib64"), kernels] {
            if folder.is_dir() {
                link_libraries(&folder, &beside)?;
            }
        }
    }
    // The old kind of tag, because it holds for the libraries' own dependencies too. The second
    // place serves the tests, whose binaries lie one folder deeper; the third a package.
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
    for place in ["$ORIGIN/lib", "$ORIGIN/../lib", "$ORIGIN/../lib/stent"] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{place}");
    }
    Ok(())
}

/// `target/release`, from `target/release/build/stent-…/out`.
fn profile_folder() -> io::Result<PathBuf> {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let folder = out.ancestors().nth(3).map(Path::to_path_buf);
    folder.ok_or_else(|| io::Error::other(format!("OUT_DIR {} is not deep enough", out.display())))
}

/// Links every library under the name by which it is asked for (`libllama.so.0`, and the kernels'
/// `libggml-cpu-zen4.so`).
fn link_libraries(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let gpu = ["cuda", "vulkan", "metal"].map(|kind| format!("libggml-{kind}.so"));
        let kernels =
            name.starts_with("libggml-cpu-") && name.ends_with(".so") || gpu.contains(&name);
        let versioned = name
            .rsplit_once(".so.")
            .is_some_and(|(_, version)| !version.contains('.'));
        if !(kernels || versioned) || UNUSED.iter().any(|family| name.contains(family)) {
            continue;
        }
        let real = fs::canonicalize(&path)?;
        let target = to.join(&name);
        let same = fs::metadata(&target).is_ok_and(|old| {
            fs::metadata(&real).is_ok_and(|new| {
                old.len() == new.len() && old.modified().ok() == new.modified().ok()
            })
        });
        if !same {
            let _ = fs::remove_file(&target);
            fs::hard_link(&real, &target).or_else(|_| fs::copy(&real, &target).map(drop))?;
        }
    }
    Ok(())
}

/// Version, commit and wasmtime's version. llama.cpp tells its own while running.
fn version() -> String {
    let commit = git(&["--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    let lock = fs::read_to_string("../Cargo.lock").unwrap_or_default();
    // Every commit and checkout adds a line to this log; HEAD itself names a branch and stays. A
    // file that is not there would make every build begin anew.
    let moved = git(&["--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists());
    for path in moved.as_deref().into_iter().chain(["../Cargo.lock"]) {
        println!("cargo:rerun-if-changed={path}");
    }
    format!(
        "{} (commit {commit}, wasmtime {}, llama-cpp-2 {}",
        env!("CARGO_PKG_VERSION"),
        locked(&lock, "wasmtime"),
        locked(&lock, "llama-cpp-2"),
    )
}

/// What `git rev-parse` says; `None` without git or outside of a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let mut command = std::process::Command::new("git");
    let output = command.arg("rev-parse").args(arguments).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim().to_owned())
}

/// A package's version in Cargo.lock.
fn locked<'a>(lock: &'a str, name: &str) -> &'a str {
    let entry = format!("name = \"{name}\"\nversion = \"");
    lock.split_once(&entry)
        .and_then(|(_, rest)| rest.split('"').next())
        .unwrap_or("unknown")
}
