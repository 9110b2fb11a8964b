//! llama.cpp: the model, its vocabulary and the context that the engine thread steps.

#![expect(unsafe_code, reason = "llama.cpp's version comes as a C string")]

mod device;
mod grammar;
mod log;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llama_cpp_2::LlamaCppError;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;

use super::gguf::{self, Header};
use super::memory::{self, Lock};
use super::scheduler::Limits;
use super::settings::{Kernels, Settings, StepBudget};
use super::threads::{self, Machine};
use super::worker::{self, Grammars, Parts};
use super::{Engine, EngineError, StartError, cpu, gpu, weights};
use crate::types::{ModelInfo, Special, Token, Tokenizer};
use device::{Device, Shape};
use grammar::Gbnf;
pub use grammar::from_schema as grammar_from_schema;

/// Rows that the repacked matrix kernels compute together.
const ROW_GROUP: usize = 4;

/// Loads the model, locks it as far as the kernel allows, and starts the thread.
pub fn start(settings: &Settings, data: &Path) -> Result<Arc<dyn Engine>, StartError> {
    let header = gguf::read(&settings.model)?;
    let backend = backend(data)?;
    let before = memory::locked();
    let wanted = settings.kernels == Kernels::Auto && settings.gpu_layers == 0;
    let own = wanted && header.k_quants && cpu::own_works(data);
    tracing::info!(
        kernels = if own { "stent" } else { "ggml" },
        "matrix kernels chosen"
    );
    let params = LlamaModelParams::default()
        .with_n_gpu_layers(settings.gpu_layers)
        // Packed weights are copies: a mapping would stay in RAM beside them for nothing.
        .with_use_mmap(settings.mmap && !own)
        .with_use_mlock(settings.mlock);
    // Both read the whole file: at once, it comes from the disk a single time.
    let weights = {
        let path = settings.model.clone();
        std::thread::spawn(move || weights::digest(&path))
    };
    let read = || load(backend, &settings.model, &params);
    let (model, refused) = match own {
        true => cpu::with_own(settings.mlock, read),
        false => (read(), false),
    };
    let model = Arc::new(model?);
    let lost = || std::io::Error::other("the thread that reads it has failed");
    let fingerprint = weights.join().unwrap_or_else(|_| Err(lost()));
    let fingerprint = fingerprint.map_err(|error| StartError::Load {
        path: settings.model.display().to_string(),
        reason: error.to_string(),
    })?;
    let lock = if settings.mlock {
        // What the limit must be raised to: packed, Q4_K weights are one part in 36 larger.
        let grown = if refused { model.size() / 36 } else { 0 };
        memory::judge(
            model.size() + grown,
            before,
            memory::locked(),
            refused || log::lock_refused(),
            memory::limit(),
        )
    } else {
        Lock::NotAsked
    };
    match lock {
        Lock::Failed { .. } => tracing::warn!("{lock}"),
        _ => tracing::info!("{lock}"),
    }
    if let Some(trained) = header.context
        && trained < u64::from(settings.n_ctx)
    {
        tracing::warn!(
            "engine.n_ctx: {} is more than the {trained} tokens that {} was trained with; answers \
             get worse beyond them",
            settings.n_ctx,
            settings.model.display()
        );
    }
    let shape = shape(settings);
    let info = info(&header, fingerprint, &model, settings);
    let mut limits = limits(settings, &model);
    if let Some(bytes) = header.kv_bytes {
        limits.token_bytes = bytes;
    }
    let parts = Parts {
        model: info,
        tokenizer: Arc::new(Vocabulary {
            model: Arc::clone(&model),
        }),
        grammars: grammars(&model),
        no_logprobs: None,
        stall_after: settings.stall_after,
        locked_bytes: lock.bytes(),
        limits: limits.clone(),
    };
    let path = settings.model.display().to_string();
    let handle = worker::start(parts, move |run| {
        let mut device = Device::open(backend, &model, &limits, shape).map_err(|reason| {
            StartError::Context {
                path,
                cells: limits.cells,
                reason,
            }
        })?;
        run(&mut device);
        Ok::<(), StartError>(())
    })?;
    Ok(Arc::new(handle))
}

fn grammars(model: &Arc<LlamaModel>) -> Box<Grammars> {
    let model = Arc::clone(model);
    Box::new(move |text| {
        let made = Gbnf::new(&model, text).map_err(EngineError::Grammar)?;
        Ok(Box::new(made))
    })
}

/// The version that llama.cpp gives of itself, such as "0.6.0".
pub fn version() -> String {
    // SAFETY: the function takes nothing and returns a constant, NUL-terminated string.
    let version = unsafe { std::ffi::CStr::from_ptr(llama_cpp_sys_2::llama_version()) };
    version.to_string_lossy().into_owned()
}

/// The tokenizer alone: no weights are read and no CPU code is chosen.
pub fn tokenizer(file: &Path) -> Result<Arc<dyn Tokenizer>, StartError> {
    let model = vocabulary_of(file)?;
    Ok(Arc::new(Vocabulary { model }))
}

fn vocabulary_of(file: &Path) -> Result<Arc<LlamaModel>, StartError> {
    let backend = {
        let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        log::forward();
        initialised()?
    };
    let params = LlamaModelParams::default().with_vocab_only(true);
    Ok(Arc::new(load(backend, file, &params)?))
}

/// A file's vocabulary without its weights, and its marks of beginning and end.
pub struct VocabularyFile {
    pub tokenizer: Arc<dyn Tokenizer>,
    pub bos: Token,
    pub eos: Token,
    pub n_vocab: u32,
    /// How the end is written out.
    pub eos_text: String,
}

/// Reads the vocabulary of a GGUF file.
///
/// # Errors
/// As [`start`].
pub fn vocabulary(file: &Path) -> Result<VocabularyFile, StartError> {
    let model = vocabulary_of(file)?;
    let vocabulary = model.vocab();
    let eos = vocabulary.eos();
    Ok(VocabularyFile {
        bos: vocabulary.bos().0,
        eos: eos.0,
        n_vocab: vocabulary.n_tokens() as u32,
        eos_text: String::from_utf8_lossy(&vocabulary.token_to_piece(eos, true, None)).into(),
        tokenizer: Arc::new(Vocabulary {
            model: Arc::clone(&model),
        }),
    })
}

static STARTING: Mutex<()> = Mutex::new(());

/// The process's one backend, with the best CPU code that works here.
fn backend(data: &Path) -> Result<&'static LlamaBackend, StartError> {
    static CHOSEN: OnceLock<()> = OnceLock::new();
    let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if CHOSEN.get().is_none() {
        log::forward();
        let variant = cpu::load_best(data)?;
        tracing::info!(variant, "CPU code chosen");
        gpu::load();
        CHOSEN.get_or_init(|| ());
    }
    initialised()
}

/// Call it under [`STARTING`]: llama.cpp can be initialised once.
fn initialised() -> Result<&'static LlamaBackend, StartError> {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    if let Some(backend) = BACKEND.get() {
        return Ok(backend);
    }
    let failed = |error: LlamaCppError| StartError::Load {
        path: "its backend".into(),
        reason: error.to_string(),
    };
    let backend = LlamaBackend::init().map_err(failed)?;
    Ok(BACKEND.get_or_init(|| backend))
}

fn load(
    backend: &LlamaBackend,
    path: &Path,
    params: &LlamaModelParams,
) -> Result<LlamaModel, StartError> {
    log::forget();
    LlamaModel::load_from_file(backend, path, params).map_err(|error| StartError::Load {
        path: path.display().to_string(),
        reason: log::last_error().unwrap_or_else(|| error.to_string()),
    })
}

fn info(
    header: &Header,
    fingerprint: String,
    model: &LlamaModel,
    settings: &Settings,
) -> ModelInfo {
    let stem = settings
        .model
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    let vocabulary = model.vocab();
    ModelInfo {
        name: header.name.clone().unwrap_or_else(|| stem.into_owned()),
        fingerprint,
        n_ctx: settings.n_ctx,
        n_vocab: vocabulary.n_tokens() as u32,
        bos: vocabulary.bos().0,
        eos: vocabulary.eos().0,
        demo: header.demo,
    }
}

fn limits(settings: &Settings, model: &LlamaModel) -> Limits {
    // K and V of one token in every layer, two bytes a number.
    let width =
        model.n_embd() as u64 / u64::from(model.n_head().max(1)) * u64::from(model.n_head_kv());
    Limits {
        slots: settings.slots as usize,
        context: settings.n_ctx as usize,
        cells: settings.cells(),
        idle_sessions: settings.kv_sessions as usize,
        park_bytes: settings.kv_park_bytes,
        token_bytes: u64::from(model.n_layer()) * width * 2 * 2,
        max_rows: settings.n_batch as usize,
        max_chunk: settings.n_ubatch as usize,
        group: ROW_GROUP,
        budget: match settings.step_budget {
            StepBudget::Auto => None,
            StepBudget::Fixed(budget) => Some(budget),
        },
        speculation: settings.speculation,
    }
}

fn shape(settings: &Settings) -> Shape {
    let machine = Machine::here();
    let clamp = |key, asked| {
        let clamped = threads::clamp(key, asked, machine);
        if let Some(reason) = &clamped.reason {
            tracing::info!("{reason}");
        }
        clamped.threads as i32
    };
    Shape {
        n_batch: settings.n_batch,
        n_ubatch: settings.n_ubatch,
        threads: clamp("threads", settings.threads),
        threads_batch: clamp("threads_batch", settings.threads_batch),
    }
}

/// The model's own tokenizer. The model is never changed, so nobody waits for a decode step.
struct Vocabulary {
    model: Arc<LlamaModel>,
}

impl Tokenizer for Vocabulary {
    fn encode(&self, text: &str, special: Special) -> Vec<Token> {
        // Begin and end tokens are placed by whoever builds the prompt.
        let tokens = self
            .model
            .vocab()
            .tokenize(text.as_bytes(), false, special == Special::Parse);
        tokens.into_iter().map(|LlamaToken(token)| token).collect()
    }

    fn bytes(&self, token: Token) -> Vec<u8> {
        let vocabulary = self.model.vocab();
        if !(0..vocabulary.n_tokens()).contains(&token) {
            return Vec::new();
        }
        // Control tokens have no text of their own.
        vocabulary.token_to_piece(LlamaToken(token), false, None)
    }
}
