//! The policies of this process, as the rest of the gateway sees them.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::sync::oneshot;

use super::attributes;
use super::audit::{self, Change};
use super::compile::Compiler;
use super::generation::{Gauge, Generation, Origin};
use super::history::{Entry, History};
use super::native;
use super::pool::{Crew, Janitor};
use super::recording;
use super::reload::{Asked, Hint, Reconciler};
use super::remembered::Memory;
use super::runtime::{Counts, Runtime};
use super::settings::Settings;
use super::stages::{Pieces, Shared, Snapshot};
use super::types::{Facts, Hook, Listed, Observer, PolicyList, State};
use crate::types::Tokenizer;

/// What the policies need from the rest of the gateway.
pub struct Surroundings {
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Revisions, compiled code and the audit log live in `policies/` below it.
    pub data_dir: PathBuf,
    pub observer: Arc<dyn Observer>,
    /// The program that compiles in a child process when called with `__compile`; the running
    /// one by default.
    pub compiler: Option<PathBuf>,
}

#[derive(Debug, Error)]
pub enum PolicyError {
    #[error("{0}")]
    Settings(String),
    #[error("the WebAssembly runtime cannot start: {0:#}")]
    Runtime(wasmtime::Error),
    #[error("{key}: {path}: {source}")]
    Files {
        key: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// `key` is the place of the configuration that has to change.
    #[error("{key}: {reason} (the bundled policy {name})")]
    Bundled {
        key: String,
        name: String,
        reason: String,
    },
    #[error("the {hook} policy cannot be {what}: {reason}")]
    Change {
        hook: Hook,
        what: &'static str,
        reason: String,
    },
    #[error("found {name:?}, expected {expected}")]
    Name {
        name: String,
        expected: &'static str,
    },
    #[error("the policies are being shut down")]
    Stopped,
}

/// Engine, ticker, warm pools, reconciler. Dropping it ends and joins their threads; snapshots
/// taken before go on to work.
pub struct Policies {
    pub(super) core: Arc<Core>,
    hints: Mutex<mpsc::Sender<Hint>>,
    reconciler: Option<JoinHandle<()>>,
    janitor: Option<Janitor>,
    /// Writes its last lines and ends with the policies.
    _recording: Option<recording::Writer>,
}

/// What the reconciler and the readers share.
pub(super) struct Core {
    pub live: ArcSwap<Generation>,
    pub gauge: Gauge,
    pub shared: Arc<Shared>,
    pub runtime: Runtime,
    pub crew: Crew,
    pub compiler: Compiler,
    pub dir: PathBuf,
    /// Files that do not serve, and standing troubles; written by the reconciler after each look.
    pub notices: Mutex<Notices>,
}

#[derive(Default)]
pub(super) struct Notices {
    pub files: Vec<Listed>,
    pub alarms: Vec<String>,
}

impl Policies {
    /// Loads what folder and history hold; blocks for as long as that compiles.
    pub fn start(settings: Settings, around: Surroundings) -> Result<Arc<Self>, PolicyError> {
        settings.check().map_err(PolicyError::Settings)?;
        let failed = |key, path: &PathBuf| {
            let path = path.clone();
            move |source| PolicyError::Files { key, path, source }
        };
        let files = |path: &PathBuf| failed("data.dir", path);
        std::fs::create_dir_all(&settings.dir).map_err(failed("policies.dir", &settings.dir))?;
        let dir = around.data_dir.join("policies");
        let history = History::open(&dir, settings.keep).map_err(files(&dir))?;
        let runtime =
            Runtime::new(&settings.limits, Counts::Nothing).map_err(PolicyError::Runtime)?;
        let compiler = Compiler::new(dir.join("compiled"), around.compiler, &runtime.engine)
            .map_err(files(&dir))?;
        let (crew, janitor) = Crew::hire(settings.limits.instances).map_err(files(&dir))?;
        let recording = match settings.record.as_os_str().is_empty() {
            true => None,
            false => {
                let (file, most) = (&settings.record, settings.record_max_bytes);
                let writer = recording::Writer::start(file, most).map_err(|e| {
                    let file = file.display();
                    PolicyError::Settings(format!("policies.record: {file}: {e}"))
                })?;
                Some(writer)
            }
        };
        let (hints, inbox) = mpsc::channel();
        let shared = Arc::new(Shared {
            native_layout: native::layout(&*around.tokenizer),
            pieces: Pieces::new(around.tokenizer.clone()),
            tokenizer: around.tokenizer,
            observer: around.observer,
            memory: Memory::new(settings.remember),
            settings: Arc::new(settings),
            hints: Mutex::new(hints.clone()),
            recorder: recording.as_ref().map(recording::Writer::recorder),
        });
        let gauge = Gauge::default();
        let natives = Hook::ALL.map(|hook| {
            let fail = shared.settings.hook(hook).fail;
            Arc::new(super::generation::Revision::native(hook, fail))
        });
        let live = ArcSwap::from_pointee(Generation::new(0, natives, Vec::new(), &gauge));
        let notices = Mutex::default();
        let core = Arc::new(Core {
            live,
            gauge,
            shared,
            runtime,
            crew,
            compiler,
            dir,
            notices,
        });
        let mut reconciler = Reconciler::new(core.clone(), history, inbox, hints.clone());
        reconciler.first_look()?;
        let thread = std::thread::Builder::new()
            .name("stent-policies".into())
            .spawn(move || reconciler.run())
            .map_err(files(&core.dir))?;
        Ok(Arc::new(Self {
            core,
            hints: Mutex::new(hints),
            reconciler: Some(thread),
            janitor: Some(janitor),
            _recording: recording,
        }))
    }

    /// Pins the current generation for one request. `span` is the request's own: policy calls are
    /// its children.
    pub fn snapshot(&self, facts: Facts, span: tracing::Span) -> Snapshot {
        Snapshot::new(
            self.core.live.load_full(),
            facts,
            span,
            self.core.shared.clone(),
        )
    }

    /// What the operator tells policies about a request with these headers.
    pub fn attributes<'a>(
        &self,
        header: impl Fn(&str) -> Option<&'a str>,
    ) -> Vec<(String, String)> {
        attributes::read(&self.core.shared.settings.attributes, header)
    }

    pub fn generation(&self) -> u64 {
        self.core.live.load().number
    }

    /// Generations that something still pins, the current one included.
    pub fn live_generations(&self) -> usize {
        self.core.gauge.read()
    }

    /// Why requests should not be sent here yet: a required hook without a policy from the
    /// folder, or a ticker that died and with it every deadline.
    pub fn ready(&self) -> Result<(), String> {
        if !self.core.runtime.is_ticking() {
            return Err("the thread that ends runaway policies has stopped".into());
        }
        let live = self.core.live.load();
        let required = |hook: &Hook| self.core.shared.settings.hook(*hook).required;
        match Hook::ALL
            .into_iter()
            .filter(required)
            .find(|h| live.of(*h).origin == Origin::Builtin)
        {
            None => Ok(()),
            Some(hook) => Err(format!(
                "policies.{hook}.required is set, and {} holds no {hook} policy that can serve",
                self.core.shared.settings.dir.display()
            )),
        }
    }

    /// Every hook's policy, shadows, and files that do not serve with stage and reason.
    pub fn list(&self) -> PolicyList {
        let live = self.core.live.load();
        let serving = live.revisions.iter().map(|revision| {
            let state = match revision.origin {
                Origin::Builtin => State::Builtin,
                Origin::File(_) | Origin::History(_) => State::Live,
            };
            revision.listed(state)
        });
        let shadows = live.shadows.iter().map(|shadow| {
            let mut listed = shadow.revision.listed(State::Shadow);
            listed.reason = Some(shadow.told());
            listed
        });
        let notices = self.core.notices();
        PolicyList(
            serving
                .chain(shadows)
                .chain(notices.files.iter().cloned())
                .collect(),
        )
    }

    /// Standing troubles, one sentence each.
    pub fn alarms(&self) -> Vec<String> {
        self.core.notices().alarms.clone()
    }

    /// Looks at the folder now; returns when what it found serves or is rejected.
    pub async fn reload(&self) -> Result<PolicyList, PolicyError> {
        self.ask(Hint::Reload).await?;
        Ok(self.list())
    }

    /// Takes the hook back to the revision before. The file stays out until it changes.
    pub async fn rollback(&self, hook: Hook) -> Result<PolicyList, PolicyError> {
        self.ask(|reply| Hint::Rollback(hook, reply)).await?;
        Ok(self.list())
    }

    /// Makes the hook's shadow the live policy: its file is renamed to one that serves, and the file
    /// that served before to `NAME.wasm.retired`.
    pub async fn promote(&self, hook: Hook) -> Result<PolicyList, PolicyError> {
        self.ask(|reply| Hint::Promote(hook, reply)).await?;
        Ok(self.list())
    }

    /// Gives the hook's policy another config: a new generation with fresh instances, or an error
    /// and everything as before.
    pub async fn configure(
        &self,
        hook: Hook,
        config: Map<String, Value>,
    ) -> Result<(), PolicyError> {
        self.ask(|reply| Hint::Configure(hook, config, reply)).await
    }

    /// The kept revisions of a hook, oldest first.
    pub async fn history(&self, hook: Hook) -> Result<Vec<Entry>, PolicyError> {
        let (reply, answer) = oneshot::channel();
        self.send(Hint::History(hook, reply));
        answer.await.map_err(|_| PolicyError::Stopped)
    }

    /// The last changes, newest last. Reads a file: not for a hot path.
    pub fn audit(&self, limit: usize) -> Result<Vec<Change>, PolicyError> {
        let path = self.core.dir.join("audit.jsonl");
        audit::read(&self.core.dir, limit).map_err(|source| PolicyError::Files {
            key: "data.dir",
            path,
            source,
        })
    }

    /// Another process looks after folder and history from here on: nothing is swapped, rolled back or
    /// written down here any more, and what serves goes on serving.
    pub fn stand_down(&self) {
        self.send(Hint::Stop);
    }

    async fn ask(&self, hint: impl FnOnce(Asked) -> Hint) -> Result<(), PolicyError> {
        let (reply, answer) = oneshot::channel();
        self.send(hint(reply));
        answer.await.map_err(|_| PolicyError::Stopped)?
    }

    fn send(&self, hint: Hint) {
        // A reconciler that has stopped drops the reply, which the caller sees.
        let _ = self
            .hints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(hint);
    }
}

impl Drop for Policies {
    fn drop(&mut self) {
        self.send(Hint::Stop);
        if let Some(thread) = self.reconciler.take() {
            // A panicked reconciler has said so on its way out.
            let _ = thread.join();
        }
        if let Some(janitor) = self.janitor.take() {
            self.core.crew.dismiss(janitor);
        }
    }
}

impl Core {
    pub(super) fn notices(&self) -> std::sync::MutexGuard<'_, Notices> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
