//! A shadow becomes the live policy: its file gets a name under which it serves, those that it
//! replaces become `.retired`, and the stages decide as they do about any other file. What they
//! reject leaves everything as it was. The folder alone says what happened, so it outlives the
//! process, and a shadow's old name is free for the next candidate.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{COMPILING, Cause, FileState, Reconciler, Seen};
use crate::policy::checks;
use crate::policy::folder::{self, beside};
use crate::policy::generation::{Generation, Origin};
use crate::policy::history::Held;
use crate::policy::policies::PolicyError;
use crate::policy::types::Hook;

pub(super) const PROMOTED: Cause = Cause {
    by: "api",
    what: "promoted",
};

impl Reconciler {
    pub(super) fn promote(&mut self, hook: Hook) -> Result<(), PolicyError> {
        let fail = |reason: String| PolicyError::Change {
            hook,
            what: "promoted",
            reason,
        };
        let live = self.core.live.load_full();
        let shadow = live.shadow(hook);
        let shadow = shadow.ok_or_else(|| fail("it has no shadow".into()))?;
        let file = shadow.revision.file().cloned().unwrap_or_default();
        let target = self.target(&live, &file).map_err(fail)?;
        let old = replaced(&live, &file, &target).map_err(fail)?;
        let mut renamed = Renamed::default();
        if let Err(reason) = renamed.all(&file, &target, &old) {
            renamed.undo();
            return Err(fail(reason));
        }
        let sha256 = &shadow.revision.sha256;
        let held = self.history.release(sha256);
        for path in old.iter().chain([&file]) {
            self.files.remove(path);
        }
        if let Err(reason) = self.admit_promoted(&target) {
            renamed.undo();
            self.files.remove(&target);
            self.hold_again(held);
            return Err(fail(reason));
        }
        // What serves as the target already leaves a shadow behind that has no file any more.
        self.retire(&file);
        Ok(())
    }

    /// The name under which the shadow's file will serve: the one that the settings order, or its own
    /// without `.shadow`.
    fn target(&self, live: &Generation, file: &Path) -> Result<PathBuf, String> {
        let hooks = || Hook::ALL.into_iter().filter(|&it| is_from(live, it, file));
        let mut ordered =
            hooks().filter_map(|it| Some((it, self.settings.hook(it).file.as_ref()?)));
        let target = match ordered.next() {
            None => folder::promoted(file),
            Some((first, name)) => match ordered.find(|(_, other)| *other != name) {
                None => file.with_file_name(name),
                Some((other, another)) => {
                    return Err(format!(
                        "{} serves both hooks, and policies.{first}.file = {name:?} and \
                         policies.{other}.file = {another:?} want two files: name one in both",
                        file.display()
                    ));
                }
            },
        };
        match checks::is_shadow(&self.settings, &target) {
            false => Ok(target),
            true => Err(format!(
                "{} would get the name {}, which makes a file a shadow: rename it first",
                file.display(),
                target.display()
            )),
        }
    }

    /// Takes the renamed file through the stages.
    fn admit_promoted(&mut self, target: &Path) -> Result<(), String> {
        let stamp = folder::stamp(target).map_err(|e| format!("{}: {e}", target.display()))?;
        let seen = Seen {
            stamp,
            since: Instant::now(),
            state: FileState::Settling,
            way: None,
        };
        self.files.insert(target.to_owned(), seen);
        let mut state = self.admit(target, stamp, PROMOTED);
        // What ran as a shadow is compiled already; where that was lost, whoever asked waits.
        while let FileState::Compiling(work) = state {
            std::thread::sleep(COMPILING);
            state = self.go_on(target, work, PROMOTED);
        }
        let outcome = match &state {
            FileState::Serving { .. } => Ok(()),
            FileState::Rejected { rejection, .. } | FileState::Truncated(rejection) => {
                Err(rejection.to_string())
            }
            _ => Err("its file changed meanwhile, ask again".into()),
        };
        if let Some(file) = self.files.get_mut(target) {
            file.state = state;
        }
        outcome
    }

    fn hold_again(&mut self, held: Vec<(Hook, Held)>) {
        for (hook, held) in held {
            if let Err(error) = self.history.hold(hook, held) {
                tracing::error!(target: "stent::policy", "the policy history cannot be written: {error}");
            }
        }
    }
}

/// Whether the hook's shadow comes from this file.
fn is_from(live: &Generation, hook: Hook, file: &Path) -> bool {
    let mut shadows = live.shadows.iter().map(|shadow| &shadow.revision);
    shadows.any(|it| it.hook == hook && it.file().is_some_and(|it| it == file))
}

/// The files that make room: those that serve a hook of the shadow's file, and the one whose name
/// it takes.
fn replaced(live: &Generation, file: &Path, target: &Path) -> Result<Vec<PathBuf>, String> {
    let from_shadow = |hook: Hook| is_from(live, hook, file);
    let source = |hook: Hook| match &live.of(hook).origin {
        Origin::File(file) if file.exists() => Some(file),
        _ => None,
    };
    let mut old: Vec<PathBuf> = Hook::ALL
        .into_iter()
        .filter(|&hook| from_shadow(hook))
        .filter_map(|hook| source(hook).cloned())
        .chain(target.exists().then(|| target.to_owned()))
        .collect();
    old.sort();
    old.dedup();
    let orphan = Hook::ALL
        .into_iter()
        .find(|&hook| !from_shadow(hook) && source(hook).is_some_and(|it| old.contains(it)));
    match orphan {
        None => Ok(old),
        Some(hook) => Err(format!(
            "{} would make room and serves the {hook} hook as well, which {} does not: serve that \
             hook from a file of its own first",
            source(hook).map_or(target, |path| path).display(),
            file.display()
        )),
    }
}

/// What was renamed, oldest first.
#[derive(Default)]
struct Renamed(Vec<(PathBuf, PathBuf)>);

impl Renamed {
    /// Signatures go where their files go. Golden cases hold for whatever has the name, unless the
    /// candidate brings its own.
    fn all(&mut self, file: &Path, target: &Path, old: &[PathBuf]) -> Result<(), String> {
        for path in old {
            self.retire(path)?;
            self.retire(&folder::signature(path))?;
        }
        let (cases, new_cases) = (folder::cases(file), folder::cases(target));
        if cases.exists() {
            self.retire(&new_cases)?;
            self.rename(&cases, &new_cases)?;
        }
        let (signature, new_signature) = (folder::signature(file), folder::signature(target));
        if signature.exists() {
            self.retire(&new_signature)?;
            self.rename(&signature, &new_signature)?;
        }
        self.rename(file, target)
    }

    fn retire(&mut self, path: &Path) -> Result<(), String> {
        match path.exists() {
            true => self.rename(path, &beside(path, ".retired")),
            false => Ok(()),
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), String> {
        let renamed = fs::rename(from, to);
        renamed.map_err(|e| {
            let (from, to) = (from.display(), to.display());
            format!("{from} cannot be renamed to {to}: {e}")
        })?;
        self.0.push((from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn undo(&mut self) {
        for (from, to) in self.0.drain(..).rev() {
            if let Err(error) = fs::rename(&to, &from) {
                tracing::error!(target: "stent::policy",
                    "{} cannot be renamed back to {}: {error}", to.display(), from.display());
            }
        }
    }
}
