// The projects that `stent policy new` writes, embedded from plugins/templates. Included by
// build.rs.

/// What a build leaves behind in a template's folder.
const LEFT_BEHIND: [&str; 4] = ["target", "node_modules", "__pycache__", "dist"];

/// Writes `templates.rs`, a list of paths, bytes and executable bits, into OUT_DIR.
fn embed_templates() -> io::Result<()> {
    use std::fmt::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let templates = root.join("../plugins/templates");
    println!("cargo::rerun-if-changed={}", templates.display());
    let mut list = String::from("const TEMPLATES: &[File] = &[\n");
    for file in files_below(&templates)? {
        let name = file.strip_prefix(&templates).unwrap_or(&file).display().to_string();
        let executable = fs::metadata(&file)?.permissions().mode() & 0o100 != 0;
        writeln!(list, "    ({name:?}, include_bytes!({:?}), {executable}),", file.display().to_string())
            .map_err(io::Error::other)?;
    }
    list.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("templates.rs"), list)
}

/// All files, in the order of their paths.
fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(|entry| entry.file_name());
    let mut files = Vec::new();
    for entry in entries {
        let left_behind = LEFT_BEHIND.iter().any(|name| entry.file_name() == *name);
        match entry.file_type()?.is_dir() {
            true if left_behind => {}
            true => files.extend(files_below(&entry.path())?),
            false => files.push(entry.path()),
        }
    }
    Ok(files)
}
