//! The pipeline for one file at a time, without a gateway: for authors, and for operators who want
//! to know what would happen. It compiles into a folder of its own that goes with it; nothing that
//! serves is touched.

mod draft;
mod meter;
mod scratch;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use super::cases::{self, CaseReport, Cases};
use super::compile::Compiler;
use super::generation::{Origin, Revision, digest};
use super::policies::PolicyError;
use super::pool::{Crew, Janitor, Pool};
use super::probe::Bench;
use super::reload::Way;
use super::remembered::Memory;
use super::runtime::{Counts, Runtime};
use super::settings::{Limits, Settings};
use super::stage::{Rejection, Stage};
use super::stages::{Asked, Pieces, Shared};
use super::types::{Facts, Hook};
use super::{bundled, checks, folder, history, native, signature};
use crate::types::Tokenizer;

pub use draft::{Draft, Served};
use draft::{memory, names};
pub(super) use meter::Meter;
use scratch::{SCRATCH, Scratch};

/// Engine, limits and tokenizer as in a gateway. Blocks: use it outside of an async runtime.
pub struct Workbench {
    pub(super) shared: Arc<Shared>,
    pub(super) crew: Crew,
    pub(super) meter: Arc<Meter>,
    runtime: Runtime,
    janitor: Option<Janitor>,
    compiler: Compiler,
    pub(super) limits: Arc<Limits>,
    pub(super) scratch: Scratch,
}

impl Workbench {
    /// # Errors
    /// When the settings are wrong, or engine, threads or folder cannot be had.
    pub fn open(settings: Settings, tokenizer: Arc<dyn Tokenizer>) -> Result<Self, PolicyError> {
        settings.check().map_err(PolicyError::Settings)?;
        let scratch = Scratch::make()?;
        let files = |source| PolicyError::Files {
            key: SCRATCH,
            path: scratch.0.clone(),
            source,
        };
        let runtime =
            Runtime::new(&settings.limits, Counts::Nothing).map_err(PolicyError::Runtime)?;
        let compiled = scratch.0.join("compiled");
        let compiler = Compiler::new(compiled, None, &runtime.engine).map_err(files)?;
        let (crew, janitor) = Crew::hire(settings.limits.instances).map_err(files)?;
        let meter = Arc::new(Meter::default());
        // Nobody rolls back here: the breaker's hints go nowhere.
        let (hints, _) = mpsc::channel();
        Ok(Self {
            limits: Arc::new(settings.limits.clone()),
            shared: Arc::new(Shared {
                native_layout: native::layout(&*tokenizer),
                pieces: Pieces::new(tokenizer.clone()),
                tokenizer,
                observer: meter.clone(),
                settings: Arc::new(settings),
                memory: Memory::new(0),
                hints: Mutex::new(hints),
                recorder: None,
            }),
            crew,
            meter,
            runtime,
            janitor: Some(janitor),
            compiler,
            scratch,
        })
    }

    /// Contract, compilation, `describe`, `configure`, self-test: what a file is by itself.
    /// `passed` hears of each stage as it is done, with what there is to say about it.
    ///
    /// # Errors
    /// The stage that the file did not pass, and why.
    pub fn examine(
        &self,
        path: &Path,
        passed: &mut dyn FnMut(Stage, String),
    ) -> Result<Draft, Rejection> {
        let bytes = self.read(path)?;
        self.build(&bytes, path, passed)
    }

    /// Tries the bundled policies with the operator's config, as a start does.
    ///
    /// # Errors
    /// What would keep the gateway from starting.
    pub fn bundled(&self) -> Result<(), PolicyError> {
        let (settings, engine) = (&self.shared.settings, &self.runtime.engine);
        for hook in Hook::ALL {
            let Some((name, source)) = bundled::chosen(settings, hook)? else {
                continue;
            };
            let compiled = self
                .compiler
                .compile_trusted(engine, source, &digest(source))
                .map_err(|r| bundled::unfit(hook, name, &r))?;
            if !compiled.hooks.contains(&hook) {
                return Err(bundled::elsewhere(hook, name));
            }
            let config = serde_json::Value::Object(settings.hook(hook).config.clone());
            self.bench()
                .probe(
                    &mut Way::untraced(),
                    &compiled.component,
                    hook,
                    config.to_string(),
                )
                .map_err(|r| bundled::unfit(hook, name, &r))?;
        }
        Ok(())
    }

    fn bench(&self) -> Bench<'_> {
        Bench {
            runtime: &self.runtime,
            crew: &self.crew,
            tokenizer: &self.shared.tokenizer,
            limits: &self.limits,
        }
    }

    /// All stages with the operator's conditions: signature, pin, golden cases, one file for one
    /// hook. `data` is the gateway's data folder; it is only read.
    ///
    /// # Errors
    /// The stage that the file did not pass, and why.
    pub fn dry_run(
        &self,
        path: &Path,
        data: &Path,
        passed: &mut dyn FnMut(Stage, String),
    ) -> Result<Draft, Rejection> {
        let settings = &self.shared.settings;
        let bytes = self.read(path)?;
        let sha256 = digest(&bytes);
        signature::verify(path, &bytes, &settings.trusted_keys)?;
        let signed = match settings.trusted_keys.is_empty() {
            true => "no signature asked for",
            false => "signed by a trusted key",
        };
        passed(Stage::Verify, format!("{} bytes, {signed}", bytes.len()));
        checks::pinned_out(settings, &sha256)?;
        let draft = self.build(&bytes, path, passed)?;
        let mut hooks: Vec<Hook> = draft.served.iter().map(|served| served.hook).collect();
        match checks::is_shadow(settings, path) {
            true => checks::shadowed(settings, path, &hooks)?,
            false => {
                let held = history::held(&data.join("policies"));
                checks::unheld(&mut hooks, |hook| {
                    let config = digest(settings.config(hook).as_bytes());
                    let mut held = held.get(&hook)?.iter();
                    held.find(|held| held.keeps_out(&sha256, &config))
                })?;
                checks::ordered(settings, path, &mut hooks)?;
            }
        }
        checks::pinned(settings, &sha256, &hooks)?;
        let mut asked = 0;
        for revision in draft.revisions.iter().filter(|r| hooks.contains(&r.hook)) {
            for file in checks::cases(settings, revision.hook, path) {
                let cases = Cases::read(&file)?;
                cases::run(&cases, revision, &self.shared)?;
                asked += cases.of(revision.hook);
            }
        }
        passed(Stage::Cases, format!("{asked} golden cases"));
        self.unrivalled(path, &hooks)?;
        passed(Stage::Swap, "would serve".into());
        Ok(draft)
    }

    /// Asks the draft every case of a file.
    ///
    /// # Errors
    /// When the file is no list of cases.
    pub fn cases(&self, draft: &Draft, file: &Path) -> Result<Vec<CaseReport>, Rejection> {
        let cases = Cases::read(file)?;
        Ok(cases::all(&cases, &draft.revisions, &self.shared))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, Rejection> {
        let unreadable = |e| Stage::Verify.reject(format!("cannot be read: {e}"));
        let len = fs::metadata(path).map_err(unreadable)?.len();
        checks::size(&self.shared.settings, len)?;
        fs::read(path).map_err(unreadable)
    }

    fn build(
        &self,
        bytes: &[u8],
        path: &Path,
        passed: &mut dyn FnMut(Stage, String),
    ) -> Result<Draft, Rejection> {
        let sha256 = digest(bytes);
        let source = self.source(&sha256);
        fs::write(&source, bytes)
            .map_err(|e| Stage::Compile.reject(format!("its source could not be kept: {e}")))?;
        let started = Instant::now();
        let engine = &self.runtime.engine;
        let compiled = self
            .compiler
            .compile(engine, &source, &sha256, &self.limits)?;
        let took = started.elapsed().as_millis();
        let is_component = bytes.get(4) == Some(&0x0d);
        let made = match is_component {
            true => "it is one already",
            false => "made of a core module",
        };
        passed(Stage::Componentize, made.into());
        let named = |hook: &Hook| hook.interface();
        let exports: Vec<_> = compiled.hooks.iter().map(named).collect();
        passed(Stage::Contract, format!("exports {}", exports.join(", ")));
        passed(Stage::Compile, format!("in {took} ms"));
        let bench = self.bench();
        let (mut served, mut revisions) = (Vec::new(), Vec::new());
        let mut way = Way::untraced();
        for &hook in &compiled.hooks {
            let settings = self.shared.settings.hook(hook);
            let config = serde_json::Value::Object(settings.config.clone()).to_string();
            let config_digest = digest(config.as_bytes());
            let candidate = bench.probe(&mut way, &compiled.component, hook, config)?;
            served.push(Served {
                hook,
                name: candidate.name.clone(),
                version: candidate.version.clone(),
                summary: candidate.summary,
                memory_peak: candidate.memory_peak,
            });
            revisions.push(Arc::new(Revision {
                name: candidate.name,
                version: candidate.version,
                sha256: sha256.clone(),
                config_digest,
                origin: Origin::File(path.to_owned()),
                granted: settings.scope,
                component: Some(compiled.component.clone()),
                pool: Some(Pool::new(candidate.template, self.crew.clone())),
                ..Revision::native(hook, settings.fail)
            }));
        }
        passed(Stage::Instantiate, memory(&served, self.limits.memory));
        passed(Stage::Describe, names(&served));
        passed(Stage::Configure, "takes the configuration".into());
        passed(Stage::SelfTest, "passed".into());
        let kind = compiled.component.component_type();
        let imports = kind.imports(engine);
        Ok(Draft {
            bytes: bytes.len() as u64,
            sha256,
            is_component,
            imports: imports.map(|(name, _)| name.to_owned()).collect(),
            served,
            revisions,
        })
    }

    /// Where a file's bytes are kept for the compiler.
    pub(super) fn source(&self, sha256: &str) -> PathBuf {
        self.scratch.0.join(format!("{sha256}.wasm"))
    }

    /// Looks for another file of the folder that serves one of the hooks.
    fn unrivalled(&self, path: &Path, hooks: &[Hook]) -> Result<(), Rejection> {
        let settings = &self.shared.settings;
        // A folder that is not there yet has no rival in it.
        let there = folder::scan(&settings.dir).unwrap_or_default();
        let is_shadow = |path: &Path| checks::is_shadow(settings, path);
        let others = there
            .iter()
            .map(|(other, _)| other)
            .filter(|other| !is_shadow(other) && other.file_name() != path.file_name());
        for other in others.filter(|_| !is_shadow(path)) {
            let Ok(bytes) = self.read(other) else {
                continue;
            };
            let sha256 = digest(&bytes);
            let compiled =
                self.compiler
                    .compile(&self.runtime.engine, other, &sha256, &self.limits);
            // What does not compile serves nothing, and what is not named where one is does not either.
            let mut theirs = compiled.map(|it| it.hooks).unwrap_or_default();
            if checks::ordered(settings, other, &mut theirs).is_err() {
                continue;
            }
            if let Some(&hook) = hooks.iter().find(|hook| theirs.contains(hook)) {
                return Err(checks::rival(hook, other));
            }
        }
        Ok(())
    }

    /// A question to one of the draft's hooks.
    pub(super) fn asked(&self, revision: &Arc<Revision>, facts: Arc<Facts>) -> Asked {
        Asked {
            revision: revision.clone(),
            generation: 0,
            facts,
            shared: self.shared.clone(),
            span: tracing::Span::none(),
            live: false,
            faulted: Arc::default(),
        }
    }
}

impl Drop for Workbench {
    fn drop(&mut self) {
        if let Some(janitor) = self.janitor.take() {
            self.crew.dismiss(janitor);
        }
    }
}
