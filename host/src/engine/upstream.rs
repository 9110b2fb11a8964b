//! Kind "openai": the tokens come from other servers that speak OpenAI's API (vLLM, SGLang,
//! llama-server, another Stent). Policies, sessions, cache, admission and traces stay here.
//!
//! A request goes to the upstream that its session used last, or to the one with the least work. It
//! is sent again, to another one, only while nobody has seen a word of an answer. An upstream that
//! fails again and again gets no requests for a while (its circuit is open), and one whose health
//! check fails gets none until it answers.

mod circuit;
mod fleet;
mod places;
mod run;
mod server;
pub mod settings;
mod wire;

use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::settings::Settings;
use super::{Engine, EngineError, Event, Job, Running, StartError, Status, Totals};
use crate::types::{ModelInfo, Sampling, SessionKey, SlotPermit, Token, Tokenizer};
use fleet::Fleet;
use places::Places;
use settings::Api;

/// The engine: requests are tasks of the runtime that it was started on.
struct Remote {
    shared: Arc<Shared>,
    tasks: Handle,
    /// Ends the health checks.
    _watch: DropGuard,
}

/// What a model is called that nobody has named.
const NAMELESS: &str = "upstream";

/// What every request uses.
struct Shared {
    settings: Settings,
    model: ModelInfo,
    vocabulary: Vocabulary,
    fleet: Fleet,
    places: Places,
}

/// How tokens are counted, and how a built prompt becomes text again.
struct Vocabulary {
    tokenizer: Arc<dyn Tokenizer>,
    bos: Token,
    eos: Token,
    n_vocab: u32,
    /// What the end-of-text token is called in a prompt that is sent as text.
    eos_text: String,
}

/// Starts the health checks and waits for the first of them. Call it from a blocking thread of a
/// runtime.
///
/// # Errors
/// When the tokenizer's file cannot be used. Upstreams that do not answer are no reason not to
/// start: /ready tells of them.
pub fn start(settings: &Settings) -> Result<Arc<dyn Engine>, StartError> {
    let vocabulary = vocabulary(settings)?;
    let fleet = Fleet::new(settings).map_err(StartError::Settings)?;
    let tasks = Handle::try_current()
        .map_err(|_| StartError::Settings("engine.kind: \"openai\" needs a runtime".into()))?;
    let watch = CancellationToken::new();
    tasks.block_on(fleet.check_all());
    for upstream in fleet.upstreams() {
        tasks.spawn(server::watch(
            Arc::clone(upstream),
            fleet.client(),
            settings.upstream.health_every,
            watch.clone(),
        ));
    }
    let asked = &settings.upstream.model;
    let name = match asked.is_empty() {
        false => asked.clone(),
        true => fleet.model().unwrap_or_else(|| NAMELESS.into()),
    };
    match settings.upstream.tokenizer.as_os_str().is_empty() {
        true => tracing::info!(
            "engine.upstream.tokenizer is not set: tokens are estimated, three bytes each, which is \
             more than most texts have"
        ),
        false => tracing::info!(
            file = %settings.upstream.tokenizer.display(),
            "tokens are counted with this vocabulary"
        ),
    }
    let identity = identity(settings, &name);
    let model = ModelInfo {
        fingerprint: hex::encode(Sha256::digest(identity)),
        name,
        n_ctx: settings.n_ctx,
        n_vocab: vocabulary.n_vocab,
        bos: vocabulary.bos,
        eos: vocabulary.eos,
        demo: false,
    };
    Ok(Arc::new(Remote {
        shared: Arc::new(Shared {
            settings: settings.clone(),
            model,
            vocabulary,
            fleet,
            places: Places::new(settings.slots as usize),
        }),
        tasks,
        _watch: watch.drop_guard(),
    }))
}

/// What answers depend on, as far as it can be known from here. Upstreams are taken to serve the
/// model that they are asked for; one that has no name is known by where it is.
fn identity(settings: &Settings, name: &str) -> String {
    let (api, tokenizer) = (settings.upstream.api, &settings.upstream.tokenizer);
    let urls = settings.upstreams.iter().map(|target| target.url.as_str());
    match name {
        NAMELESS => format!("{api:?} {tokenizer:?} {:?}", urls.collect::<Vec<_>>()),
        name => format!("{api:?} {tokenizer:?} {name}"),
    }
}

/// Asks every upstream for its models, once: its address, and what it lists or what is wrong with
/// it. Nothing is started.
///
/// # Errors
/// When an upstream's key cannot be read. Call it outside of a runtime.
pub fn look(settings: &Settings) -> Result<Vec<Look>, StartError> {
    let fleet = Fleet::new(settings).map_err(StartError::Settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = fleet.client();
    let asked = fleet.upstreams().iter().map(async |upstream| {
        let models = upstream.models(&client).await;
        (settings::shown(&upstream.url), models)
    });
    Ok(runtime.block_on(futures::future::join_all(asked)))
}

/// An upstream's address, and its models or its trouble.
pub type Look = (String, Result<Vec<String>, String>);

/// The tokenizer alone.
///
/// # Errors
/// When its file cannot be used.
pub fn tokenizer(settings: &Settings) -> Result<Arc<dyn Tokenizer>, StartError> {
    Ok(vocabulary(settings)?.tokenizer)
}

fn vocabulary(settings: &Settings) -> Result<Vocabulary, StartError> {
    let file = &settings.upstream.tokenizer;
    if !file.as_os_str().is_empty() {
        let read = super::llama::vocabulary(file).map_err(|error| {
            let problem = error.to_string();
            let problem = problem.trim_start_matches("engine.model: ");
            StartError::Settings(format!(
                "engine.upstream.tokenizer: {problem}, expected a GGUF file with a vocabulary"
            ))
        });
        return read.map(|v| Vocabulary {
            tokenizer: v.tokenizer,
            bos: v.bos,
            eos: v.eos,
            n_vocab: v.n_vocab,
            eos_text: v.eos_text,
        });
    }
    let estimate = super::scripted::bytes();
    Ok(Vocabulary {
        bos: super::scripted::BOS,
        eos: super::scripted::EOS,
        n_vocab: u32::MAX,
        eos_text: "</s>".into(),
        tokenizer: estimate,
    })
}

impl Vocabulary {
    /// The prompt as text. Its first token, if it is the beginning of text, is left out: the
    /// upstream puts one there itself.
    fn text(&self, prompt: &[Token]) -> String {
        let rest = match prompt.split_first() {
            Some((&first, rest)) if first == self.bos => rest,
            _ => prompt,
        };
        let mut bytes = Vec::new();
        for &token in rest {
            match token == self.eos {
                true => bytes.extend_from_slice(self.eos_text.as_bytes()),
                false => bytes.extend(self.tokenizer.bytes(token)),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Engine for Remote {
    fn model(&self) -> &ModelInfo {
        &self.shared.model
    }

    fn tokenizer(&self) -> Arc<dyn Tokenizer> {
        Arc::clone(&self.shared.vocabulary.tokenizer)
    }

    fn check(&self, how: &Sampling) -> Result<(), EngineError> {
        unsupported(how, self.shared.settings.upstream.api).map_or(Ok(()), Err)
    }

    fn submit(&self, job: Job, permit: SlotPermit) -> Running {
        let (events, receiver) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let guard = cancel.clone().drop_guard();
        let context = self.shared.model.n_ctx;
        let prompt = u32::try_from(job.prompt.len()).unwrap_or(u32::MAX);
        if prompt == 0 || prompt.saturating_add(job.max_tokens) > context {
            let _ = events.send(Event::Failed(EngineError::TooLong {
                prompt,
                output: job.max_tokens,
                context,
            }));
        } else {
            let shared = Arc::clone(&self.shared);
            self.tasks
                .spawn(run::run(shared, job, permit, events, cancel));
        }
        Running {
            events: receiver,
            cancel: guard,
        }
    }

    /// An upstream has no such call; its own prefix cache does what it can.
    fn prepare(&self, _: &SessionKey, _: Arc<[Token]>) {}

    fn forget(&self, session: &SessionKey) {
        self.shared.fleet.forget(session);
    }

    fn provider(&self) -> &'static str {
        "openai"
    }

    fn status(&self) -> Status {
        let upstreams = self.shared.fleet.status();
        let ready = upstreams.iter().any(|upstream| upstream.healthy);
        let (slots, queued) = self.shared.places.status();
        Status {
            ready,
            reason: (!ready).then(|| {
                let why: Vec<String> = upstreams
                    .iter()
                    .map(|u| {
                        format!(
                            "{}: {}",
                            u.url,
                            u.problem.as_deref().unwrap_or("circuit open")
                        )
                    })
                    .collect();
                format!("no upstream can be used: {}", why.join("; "))
            }),
            slots,
            queued,
            kv_cells_used: 0,
            kv_cells: 0,
            totals: Totals {
                prefilled: self.shared.fleet.read_tokens(),
                generated: self.shared.fleet.written_tokens(),
                ..Totals::default()
            },
            upstreams,
        }
    }
}

/// What this kind cannot do, found out before anything is sent.
fn unsupported(how: &Sampling, api: Api) -> Option<EngineError> {
    if how.logprobs.is_some() && api != Api::Chat {
        let reason =
            "engine.kind \"openai\" passes them on with engine.upstream.api = \"chat\" alone";
        return Some(EngineError::Logprobs(reason));
    }
    let problem = if how.grammar.is_some() {
        "engine.kind \"openai\" passes no grammars on"
    } else if api != Api::Tokens && !how.logit_bias.is_empty() {
        // Token ids mean nothing to a server with another vocabulary.
        "logit_bias needs engine.upstream.api = \"tokens\""
    } else {
        return None;
    };
    Some(EngineError::Grammar(problem.into()))
}
