// The bundled policies, embedded from plugins/dist. Included by build.rs.

use std::fmt::Write as _;
use std::path::Path;

/// Policies that serve by default must be there; the others are embedded where they are.
const REQUIRED: [&str; 3] = ["prompt-mistral", "trim-exchanges", "cache-exact"];

/// Writes `bundled.rs`, a list of names and bytes, into OUT_DIR.
#[expect(clippy::expect_used, reason = "a build that cannot go on has failed")]
fn embed_plugins() {
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let dist = Path::new(&root).join("../plugins/dist");
    println!("cargo::rerun-if-changed={}", dist.display());
    let mut names: Vec<String> = std::fs::read_dir(&dist)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            entry.file_name().to_string_lossy().strip_suffix(".wasm").map(str::to_owned)
        })
        .collect();
    names.sort();
    for required in REQUIRED {
        if !names.iter().any(|name| name == required) {
            println!("cargo::error=plugins/dist/{required}.wasm is missing: run `make plugins`");
        }
    }
    let mut list = String::from("pub(super) const BUNDLED: &[(&str, &[u8])] = &[\n");
    for name in &names {
        let file = dist.join(format!("{name}.wasm"));
        println!("cargo::rerun-if-changed={}", file.display());
        writeln!(list, "    ({name:?}, include_bytes!({:?})),", file.display().to_string())
            .expect("writing into a string cannot fail");
    }
    list.push_str("];\n");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(Path::new(&out).join("bundled.rs"), list).expect("OUT_DIR can be written");
}
