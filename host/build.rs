//! Build-time inputs: the bundled policies.

include!("build/plugins.rs");

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build/plugins.rs");
    embed_plugins();
}
