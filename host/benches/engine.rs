//! What the engine's thread does between two steps: planning the next one, and drawing tokens from
//! the logits of the last. `make bench-micro`; figures in docs/benchmarks.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot go on has failed"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use stent::engine::sampling::{Candidate, Grammar, Sampler};
use stent::engine::scheduler::{Drawn, Limits, Request, Scheduler, Time};
use stent::types::{Sampling, SessionId, SessionKey, TenantId, Token};

/// BioMistral-7B's.
const VOCABULARY: usize = 32_000;

fn limits() -> Limits {
    Limits {
        slots: 4,
        context: 8192,
        cells: 32_768,
        idle_sessions: 32,
        park_bytes: 2 << 30,
        token_bytes: 128 << 10,
        max_rows: 2048,
        max_chunk: 128,
        group: 4,
        budget: None,
        speculation: true,
    }
}

fn request(id: u64, len: usize, max_tokens: usize) -> Request {
    let session = SessionKey {
        tenant: TenantId::default(),
        session: SessionId::parse(&format!("s{id}")).unwrap(),
    };
    let prompt = (0..len).map(|i| (id as usize * 7919 + i * 31) as Token % 30_000);
    Request {
        id,
        tenant: session.tenant.clone(),
        session: Some(session),
        prompt: prompt.collect(),
        head: 0,
        max_tokens,
    }
}

/// One step with a made-up token for each answer.
fn step(scheduler: &mut Scheduler, now: &mut Time) {
    let plan = scheduler.plan(*now);
    let token = (now.as_millis() % 29_989) as Token;
    let drawn: Vec<_> = plan
        .samples
        .iter()
        .map(|sample| Drawn {
            tokens: vec![token + sample.slot as Token],
            end: false,
        })
        .collect();
    let took = Duration::from_millis(40 + 14 * plan.rows.len() as u64);
    *now += took;
    scheduler.complete(plan, &drawn, took, *now);
}

/// Four answers run behind 1,200 tokens each; 32 sessions of 600 tokens are idle in the cache.
fn busy() -> (Scheduler, Time) {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    for id in 100..132 {
        scheduler.submit(request(id, 600, 1), now);
        while scheduler.has_work() {
            step(&mut scheduler, &mut now);
        }
    }
    for id in 1..5 {
        scheduler.submit(request(id, 1200, 1000), now);
    }
    while scheduler.queued() > 0 || (0..4).any(|slot| !decodes(&scheduler, slot)) {
        step(&mut scheduler, &mut now);
    }
    (scheduler, now)
}

fn decodes(scheduler: &Scheduler, slot: usize) -> bool {
    scheduler.doing(slot) == stent::engine::scheduler::Doing::Decode
}

fn scheduling(c: &mut Criterion) {
    let mut group = c.benchmark_group("scheduler");
    group.bench_function("a step of four answers", |b| {
        b.iter_batched_ref(
            busy,
            |(scheduler, now)| step(scheduler, now),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("the same while 64 wait and a prompt is read", |b| {
        b.iter_batched_ref(
            || {
                let (mut scheduler, mut now) = busy();
                scheduler.cancel(1, now);
                scheduler.submit(request(50, 4000, 100), now);
                step(&mut scheduler, &mut now);
                for id in 200..264 {
                    scheduler.submit(request(id, 1200, 100), now);
                }
                (scheduler, now)
            },
            |(scheduler, now)| step(scheduler, now),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Logits like a model's: most are low, a few stand out.
fn logits() -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(3);
    let mut normal = || (0..12).map(|_| random.f32()).sum::<f32>() - 6.0;
    let mut logits: Vec<_> = (0..VOCABULARY).map(|_| normal() * 2.0 - 4.0).collect();
    for at in [17, 4_000, 9_999, 20_000] {
        logits[at] += 14.0;
    }
    logits
}

/// Forbids every other token: the likeliest is refused, and the whole vocabulary is looked at.
struct Even;

impl Grammar for Even {
    fn filter(&mut self, candidates: &mut Vec<Candidate>) {
        for candidate in candidates.iter_mut().filter(|c| c.token % 2 == 1) {
            candidate.logit = f32::NEG_INFINITY;
        }
    }
    fn accept(&mut self, _: Token) -> Result<(), String> {
        Ok(())
    }
}

fn sampling(c: &mut Criterion) {
    let logits = logits();
    let warm = Sampling {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        ..Sampling::greedy()
    };
    let ways = [
        ("greedy", Sampling::greedy()),
        ("the defaults", warm.clone()),
        (
            "penalties and 100 biases",
            Sampling {
                repeat_penalty: 1.1,
                frequency_penalty: 0.2,
                logit_bias: (0..100).map(|token| (token, -1.0)).collect(),
                ..warm.clone()
            },
        ),
        (
            "without top-k",
            Sampling {
                top_k: 0,
                ..warm.clone()
            },
        ),
    ];
    let prompt: Arc<[Token]> = (0..64).collect();
    let mut group = c.benchmark_group("sampling");
    for (name, how) in ways {
        let mut sampler = Sampler::new(how, None, &prompt);
        group.bench_function(name, |b| {
            b.iter(|| black_box(sampler.draw(black_box(&logits)).unwrap()));
        });
    }
    let mut sampler = Sampler::new(warm, Some(Box::new(Even)), &prompt);
    group.bench_function("a form that refuses half of the draws", |b| {
        b.iter(|| black_box(sampler.draw(black_box(&logits)).unwrap()));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = scheduling, sampling
}
criterion_main!(benches);
