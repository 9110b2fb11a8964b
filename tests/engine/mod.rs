//! The engine through its own trait: real llama.cpp on a tiny random model, and the scripted kind.

mod cpu;
mod faults;
mod generation;
mod scripted;
mod sessions;
mod spans;
mod tiny;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stent::admission::Admission;
use stent::engine::{self, Engine, Event, Job, Outcome, Running, Settings};
use stent::types::{Sampling, SessionId, SessionKey, Special, TenantId, Token};

/// An engine on the tiny model, with enough permits.
struct Bench {
    engine: Arc<dyn Engine>,
    admission: Admission,
    _folder: tempfile::TempDir,
}

/// How far a logit may lie below another one and still win when the same is computed in another order:
/// in longer pieces, from a restored cache, as a guess. Attention is added up with another precision
/// then, and rounding activations to eight bits makes more of it: 0.35 was seen on the tiny model,
/// whose best logit is about 7. A foreign cell of the cache exchanges all logits.
const TIE: f32 = 0.5;

/// What one job brought.
#[derive(Debug)]
struct Answer {
    text: String,
    tokens: Vec<Token>,
    cached: u32,
    end: Result<Outcome, engine::EngineError>,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Stent's kernels give a row the same bits whatever stands beside it; ggml's only for floats.
        let weights = match engine::cpu::own_possible() {
            true => tiny::Weights::KQuants,
            false => tiny::Weights::Float,
        };
        let mut settings = settings(&tiny::write(folder.path(), weights));
        change(&mut settings);
        let engine = engine::start(&settings, &data_folder()).unwrap();
        Self {
            engine,
            admission: Admission::new(4, 64),
            _folder: folder,
        }
    }

    fn submit(&self, job: Job) -> Running {
        self.engine.submit(job, self.admission.enter().unwrap())
    }

    fn run(&self, job: Job) -> Answer {
        collect(self.submit(job))
    }

    /// The one token of a text.
    fn token(&self, text: &str) -> Token {
        let tokens = self.engine.tokenizer().encode(text, Special::AsText);
        *tokens.last().unwrap()
    }

    /// The tokens are what this engine, with nobody else there, finds the likeliest at each place, but
    /// for ties.
    fn assert_drawn_from(&self, sampling: &Sampling, prompt: &[Token], tokens: &[Token]) {
        let run = |context: &[Token], bias: &[(Token, f32)], most: usize| {
            let mut job = job(None, context.to_vec(), most as u32);
            job.sampling = sampling.clone();
            job.sampling.logit_bias.extend_from_slice(bias);
            self.run(job).tokens
        };
        let (mut context, mut at, mut ties) = (prompt.to_vec(), 0, 0);
        while at < tokens.len() {
            let rest = &tokens[at..];
            let alone = run(&context, &[], rest.len());
            let same = alone.iter().zip(rest).take_while(|(a, b)| a == b).count();
            context.extend(&rest[..same]);
            at += same;
            let Some(&drawn) = rest.get(same) else {
                return;
            };
            let said = format!("token {at} of {tokens:?}, alone {:?}", alone.get(same));
            assert_eq!(run(&context, &[(drawn, TIE)], 1), [drawn], "{said}");
            ties += 1;
            context.push(drawn);
            at += 1;
        }
        let few = 2 + tokens.len() / 4;
        assert!(ties <= few, "{ties} ties in {tokens:?}");
    }
}

/// Where the probed CPU code is remembered: beside the test binary, for all tests.
fn data_folder() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().unwrap().join("integration-data")
}

fn settings(model: &Path) -> Settings {
    Settings {
        model: model.into(),
        mlock: false,
        n_ctx: 512,
        n_batch: 256,
        n_ubatch: 64,
        max_tokens: 64,
        kv_sessions: 8,
        ..Settings::default()
    }
}

fn greedy() -> Sampling {
    Sampling {
        temperature: 0.0,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        repeat_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: Vec::new(),
        grammar: None,
        seed: 1,
        logprobs: None,
    }
}

fn session(name: &str) -> SessionKey {
    SessionKey {
        tenant: TenantId::default(),
        session: SessionId::parse(name).unwrap(),
    }
}

fn job(session: Option<SessionKey>, prompt: Vec<Token>, max_tokens: u32) -> Job {
    Job {
        tenant: TenantId::default(),
        messages: Vec::new(),
        session,
        prompt: prompt.into(),
        head: 0,
        sampling: greedy(),
        max_tokens,
        stop: Vec::new(),
        span: tracing::Span::none(),
    }
}

/// `len` tokens that no other `marker` has in this order.
fn prompt(marker: u64, len: usize) -> Vec<Token> {
    let mut random = tiny::Random(marker.wrapping_mul(977).wrapping_add(13));
    let mut tokens = vec![1];
    tokens.extend((1..len).map(|_| 3 + (random.next() % 256) as Token));
    tokens
}

fn collect(mut running: Running) -> Answer {
    let (mut text, mut tokens, mut cached) = (String::new(), Vec::new(), 0);
    loop {
        let end = match running.events.blocking_recv() {
            Some(Event::Queued { .. }) => continue,
            Some(Event::Started { cached: found, .. }) => {
                cached = found;
                continue;
            }
            Some(Event::Text {
                text: piece,
                tokens: ids,
                ..
            }) => {
                text += &piece;
                tokens.extend(ids);
                continue;
            }
            Some(Event::Finished(outcome)) => Ok(outcome),
            Some(Event::Failed(error)) => Err(error),
            None => panic!("the events ended without a last one"),
        };
        return Answer {
            text,
            tokens,
            cached,
            end,
        };
    }
}
