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
use stent::types::{Logprob, Sampling, SessionId, SessionKey, Special, TenantId, Token};

/// An engine on the tiny model, with enough permits.
struct Bench {
    engine: Arc<dyn Engine>,
    admission: Admission,
    /// How far a log-probability may be off.
    tolerance: f32,
    _folder: tempfile::TempDir,
}

/// How far a log-probability may lie from that of the same tokens where KV was moved, steps have 64 rows or
/// more, or several threads share a row: attention is added up in another order then, most of it with eleven
/// bits. With weights as floats 0.03 was seen, and 0.8 or more with one wrong token in the cache.
const TOLERANCE: f32 = 0.1;

/// The tiny model's token that ends a text.
const END: Token = 2;

/// What one job brought.
#[derive(Debug)]
struct Answer {
    text: String,
    tokens: Vec<Token>,
    told: Vec<Logprob>,
    cached: u32,
    end: Result<Outcome, engine::EngineError>,
}

impl Bench {
    /// Computes the same bits for a row whatever stands beside it, as long as its cells lie in the order of
    /// their tokens. Three things see to that: Stent's kernels, steps of fewer than 64 rows, and one thread,
    /// since ggml cuts the attention of a lone row into one part for each. Where the processor is too old
    /// for these kernels, within [`TOLERANCE`].
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        if !engine::cpu::own_possible() {
            return Self::rounding(change);
        }
        let exact = |settings: &mut Settings| {
            settings.n_ubatch = 48;
            (settings.threads, settings.threads_batch) = (1, 1);
            change(settings);
        };
        Self {
            tolerance: 0.0,
            ..Self::on(tiny::Weights::KQuants, exact)
        }
    }

    /// As it is used, with pieces of 64 tokens and all threads, but with weights as floats: activations are
    /// not rounded to eight bits, which makes much of little.
    fn rounding(change: impl FnOnce(&mut Settings)) -> Self {
        Self::on(tiny::Weights::Float, change)
    }

    fn on(weights: tiny::Weights, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(&tiny::write(folder.path(), weights));
        change(&mut settings);
        let engine = engine::start(&settings, &data_folder()).unwrap();
        Self {
            engine,
            admission: Admission::new(4, 64),
            tolerance: TOLERANCE,
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

    /// The largest difference between the log-probabilities that came with an answer and those that this
    /// engine, with nobody else there, gives for the same text.
    fn off(&self, sampling: &Sampling, prompt: &[Token], answer: &Answer) -> f32 {
        let (mut context, mut worst) = (prompt.to_vec(), 0_f32);
        assert_eq!(answer.tokens.len(), answer.told.len(), "{answer:?}");
        let mut rest = answer.tokens.iter().zip(&answer.told);
        while rest.len() > 0 {
            let mut again = job(None, context.clone(), rest.len() as u32);
            again.sampling = sampling.clone();
            let alone = self.run(again);
            assert!(!alone.tokens.is_empty(), "{alone:?}");
            for (other, found) in alone.tokens.iter().zip(&alone.told) {
                let (token, told) = rest.next().unwrap();
                worst = worst.max(difference(told, found));
                context.push(*token);
                // What was drawn behind another token is another text.
                if token != other {
                    break;
                }
            }
        }
        worst
    }

    /// The answer is as if nobody else had been there.
    fn assert_alone(&self, sampling: &Sampling, prompt: &[Token], answer: &Answer) {
        let off = self.off(sampling, prompt, answer);
        assert!(off <= self.tolerance, "{off}: {answer:?}");
    }
}

/// The largest difference between what two computations of one place say.
fn difference(a: &Logprob, b: &Logprob) -> f32 {
    let drawn = b.top.iter().filter(|found| found.bytes == a.drawn.bytes);
    let drawn = drawn.map(|found| (found.logprob - a.drawn.logprob).abs());
    // In order of likelihood: numbers that all lie close stay close when each list is sorted.
    let all = a.top.iter().zip(&b.top);
    let all = all.map(|(a, b)| (a.logprob - b.logprob).abs());
    all.fold(drawn.fold(f32::INFINITY, f32::min), f32::max)
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

/// Greedy, to the last token that may be drawn, and tells of nearly all tokens how likely they were.
fn greedy() -> Sampling {
    Sampling {
        logit_bias: vec![(END, -100.0)],
        logprobs: Some(u8::MAX),
        ..Sampling::greedy()
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
    let (mut text, mut tokens, mut told) = (String::new(), Vec::new(), Vec::new());
    let mut cached = 0;
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
                logprobs,
            }) => {
                text += &piece;
                tokens.extend(ids);
                told.extend(logprobs);
                continue;
            }
            Some(Event::Finished(outcome)) => Ok(outcome),
            Some(Event::Failed(error)) => Err(error),
            None => panic!("the events ended without a last one"),
        };
        return Answer {
            text,
            tokens,
            told,
            cached,
            end,
        };
    }
}
