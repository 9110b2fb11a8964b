//! Folders that the configuration names.

use std::path::Path;

/// Whether `path` is a folder, or can become one. The error names the key and the flag.
pub fn folder(key: &str, flag: &str, path: &Path) -> Result<(), String> {
    if path.as_os_str().is_empty() {
        return Err(format!("{key} ({flag}): found no path, expected a folder"));
    }
    let there = path.ancestors().find(|part| part.exists());
    match there.filter(|part| !part.is_dir()) {
        None => Ok(()),
        Some(file) if file == path => Err(format!(
            "{key} ({flag}): {} is a file, expected a folder",
            path.display()
        )),
        Some(file) => Err(format!(
            "{key} ({flag}): {} cannot be a folder, because {} is a file",
            path.display(),
            file.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_no_folder_and_holds_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = |path: &Path| folder("data.dir", "--data", path);
        assert_eq!(
            check(Path::new("")).unwrap_err(),
            "data.dir (--data): found no path, expected a folder"
        );
        let name = file.path().display();
        assert_eq!(
            check(file.path()).unwrap_err(),
            format!("data.dir (--data): {name} is a file, expected a folder")
        );
        let below = check(&file.path().join("a/b")).unwrap_err();
        assert!(
            below.ends_with(&format!("because {name} is a file")),
            "{below}"
        );
        let parent = file.path().parent().unwrap();
        assert_eq!(check(&parent.join("not/yet/there")), Ok(()));
        assert_eq!(check(Path::new("relative/and/new")), Ok(()));
    }
}
