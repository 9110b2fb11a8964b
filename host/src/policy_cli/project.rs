//! `new`: a project from the templates inside the program.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::Error;
use crate::policy::Hook;

include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// The contract that projects are built against.
const CONTRACT: &str = include_str!("../../../wit/policy.wit");

/// Path, content, and whether it may be run.
type File = (&'static str, &'static [u8], bool);

/// `stent policy new`.
#[derive(Args, Clone, Debug)]
pub struct New {
    /// Lower-case letters, digits and dashes; the policy's own name too
    name: String,
    /// guard, trim, prompt, cache or filter
    #[arg(long, value_parser = super::hook)]
    hook: Hook,
    #[arg(long, value_enum)]
    lang: Lang,
    /// Where the project's folder is made
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Lang {
    Rust,
    Js,
    Python,
    C,
}

impl New {
    pub fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let name = &self.name;
        if !is_name(name) {
            return Err(Error::Failed(format!(
                "{name:?} is no name for a policy, expected 1 to 64 lower-case letters, digits \
                 and dashes, a letter first and no dash last"
            )));
        }
        let files = self.files()?;
        let project = self.dir.join(name);
        if project.symlink_metadata().is_ok() {
            return Err(Error::Failed(format!(
                "{} exists already, expected a name that is free",
                project.display()
            )));
        }
        for (path, bytes, executable) in files {
            // A manifest called by its own name would make the template a package.
            let path = self.fill(path.strip_suffix(".in").unwrap_or(path));
            write(&project.join(path), &self.content(bytes), executable)?;
        }
        write(&project.join("wit/policy.wit"), CONTRACT.as_bytes(), false)?;
        let (hook, shown) = (self.hook, project.display());
        let how = match project.join("README.md").exists() {
            true => "; its README.md says how to build it",
            false => "",
        };
        writeln!(out, "{shown} holds a new {hook} policy{how}")?;
        Ok(())
    }

    /// What belongs to the language and what belongs to the hook, by their paths in the project.
    fn files(&self) -> Result<Vec<File>, Error> {
        let lang = self.lang.to_possible_value();
        let lang = lang.as_ref().map_or("", |lang| lang.get_name());
        let below = |folder: &str| {
            let prefix = format!("{lang}/{folder}/");
            let found = TEMPLATES
                .iter()
                .filter_map(move |(path, bytes, executable)| {
                    Some((path.strip_prefix(&prefix)?, *bytes, *executable))
                });
            found.collect::<Vec<_>>()
        };
        let own = below(self.hook.as_str());
        if own.is_empty() {
            return Err(Error::Failed(format!(
                "there is no {lang} template for the {} hook in this version",
                self.hook
            )));
        }
        Ok(below("common").into_iter().chain(own).collect())
    }

    /// Fills the placeholders.
    fn fill(&self, text: &str) -> String {
        text.replace("{{name}}", &self.name)
            .replace("{{crate}}", &self.name.replace('-', "_"))
            .replace("{{hook}}", self.hook.as_str())
            .replace("{{world}}", world(self.hook))
    }

    /// Texts are filled in; anything else stays as it is.
    fn content(&self, bytes: &[u8]) -> Vec<u8> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.fill(text).into_bytes(),
            Err(_) => bytes.to_vec(),
        }
    }
}

/// The world of wit/policy.wit that exports the hook.
fn world(hook: Hook) -> &'static str {
    match hook {
        Hook::Guard => "guarding",
        Hook::Trim => "trim",
        Hook::Prompt => "prompt",
        Hook::Cache => "caching",
        Hook::Filter => "filtering",
    }
}

fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    first && name.len() <= 64 && name.bytes().all(fits) && !name.ends_with('-')
}

fn write(path: &Path, bytes: &[u8], executable: bool) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let mode = if executable { 0o777 } else { 0o666 };
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(mode).open(path);
    let mut file = opened.map_err(Error::io(path))?;
    file.write_all(bytes).map_err(Error::io(path))
}
