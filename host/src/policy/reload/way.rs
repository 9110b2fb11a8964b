//! The trace of one change: a root span from the first sight of a file until nothing uses any more
//! what it replaced. It names files, stages and reasons, and nothing that people wrote.

use std::path::Path;

use tracing::Span;

use crate::policy::generation::Revision;
use crate::policy::stage::{Rejection, Stage};
use crate::trace::Held;
use crate::trace::spans::{self, Reloaded};

/// Where a change is on its way to serving.
pub(in crate::policy) struct Way(Option<Open>);

/// Ends its stage before its root.
struct Open {
    file: String,
    stage: Option<(&'static str, Held)>,
    root: Held,
}

/// Ends the trace where it is dropped: with the generation that was replaced.
pub(in crate::policy) struct Draining {
    _drain: Held,
    _root: Held,
}

impl Way {
    /// What the gateway does by itself when it starts.
    pub(in crate::policy) fn untraced() -> Self {
        Self(None)
    }

    pub(super) fn of(file: &Path) -> Self {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        Self(Some(Open {
            stage: None,
            root: Held::new(spans::policy_reload(&name)),
            file: name.into_owned(),
        }))
    }

    /// A file that was just seen.
    pub(super) fn settling(file: &Path) -> Self {
        let mut way = Self::of(file);
        way.enter("settle");
        way
    }

    /// The stage before ends here.
    pub(in crate::policy) fn enter(&mut self, name: &'static str) {
        if let Some(open) = &mut self.0
            && open.stage.as_ref().is_none_or(|(now, _)| *now != name)
        {
            let file = &open.file;
            match name {
                // It takes seconds for some languages: who put the file there sees that it was found.
                "compile" => {
                    tracing::info!(target: "stent::policy", file, stage = name, "{file}: {name}");
                }
                _ => tracing::debug!(target: "stent::policy", file, stage = name, "{file}: {name}"),
            }
            open.stage = None;
            open.stage = Some((name, Held::new(spans::reload_stage(&open.root, name))));
        }
    }

    /// For log lines that belong to it.
    pub(super) fn span(&self) -> Span {
        self.0
            .as_ref()
            .map_or_else(Span::none, |open| (*open.root).clone())
    }

    pub(super) fn failed(self, rejection: &Rejection, generation: u64) {
        let Some(open) = self.0 else { return };
        let kind = rejection.stage.as_str();
        if let Some((_, stage)) = &open.stage {
            spans::failed(stage, kind);
        }
        // Cases are conversations, and a reason quotes them.
        let reason = match rejection.stage {
            Stage::Cases => "an answer differs from the one that its case expects",
            _ => &rejection.reason,
        };
        spans::reload_rejected(&open.root, kind, reason, generation);
    }

    /// It ends without another generation.
    pub(super) fn ended(self, result: &'static str, generation: u64) {
        if let Some(open) = self.0 {
            spans::reload_done(&open.root, result, generation);
        }
    }

    /// Another generation serves; what is left to do is done when the old one is freed.
    pub(super) fn drain(
        mut self,
        result: &'static str,
        generation: u64,
        revision: Option<&Revision>,
    ) -> Option<Draining> {
        self.enter("drain");
        let open = self.0?;
        let (_, drain) = open.stage?;
        if let Some(revision) = revision {
            let policy = Reloaded {
                hook: revision.hook.as_str(),
                name: &revision.name,
                version: &revision.version,
                sha256: &revision.sha256,
            };
            spans::reloaded(&open.root, &policy);
        }
        spans::reload_done(&open.root, result, generation);
        Some(Draining {
            _drain: drain,
            _root: open.root,
        })
    }
}
