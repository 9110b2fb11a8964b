//! What policies cost a request, and what a change costs the gateway: `make bench-micro`.
//!
//! The figures of one run hang together; compare none with those of another machine, or of this
//! one while it is busy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot go on has failed"
)]

#[path = "../../tests/policy/guest.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod guest;
#[path = "../../tests/policy/support.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod support;

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use stent::policy::{AnswerOutcome, Hook, Observer, Policies, ReloadFacts, Snapshot, Surroundings};
use stent::types::{Finish, Message};
use support::{Bench, Letters, serving, snapshot, talk};
use tokio::runtime::Runtime;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Three exchanges and a new question.
fn history() -> Vec<Message> {
    talk(&[
        "What is diabetes?",
        "A disease in which blood sugar stays too high.",
        "What are its signs?",
        "Thirst, tiredness, and losing weight without trying.",
        "What causes it?",
        "The body makes too little insulin, or answers it too weakly.",
        "Can it be cured?",
    ])
}

/// All bundled policies, guard and filter as well.
fn everything() -> (Bench, Arc<Policies>) {
    let mut bench = Bench::new();
    bench.settings.guard.bundled = Some("guard-limits".into());
    bench.settings.filter.bundled = Some("filter-redact".into());
    let policies = bench.start();
    (bench, policies)
}

fn hooks(c: &mut Criterion) {
    let (_bench, policies) = everything();
    let (runtime, messages) = (runtime(), history());
    let mut group = c.benchmark_group("hook");
    // Each on a snapshot of its own, as each request has one; making it is not what is measured.
    let mut each = |name: &str, ask: &dyn Fn(Snapshot)| {
        let fresh = || snapshot(&policies);
        group.bench_function(name, |b| {
            b.iter_batched(fresh, ask, BatchSize::PerIteration)
        });
    };
    each("guard-limits check", &|s| {
        drop(black_box(runtime.block_on(s.guard(&messages)).unwrap()));
    });
    each("cache-exact decide", &|s| {
        drop(black_box(
            runtime.block_on(s.cache_decide(&messages)).unwrap(),
        ));
    });
    each("cache-exact admit", &|s| {
        let admitted = s.cache_admit(&messages, ANSWER, outcome());
        black_box(runtime.block_on(admitted));
    });
    each("prompt-mistral layout", &|s| {
        drop(black_box(runtime.block_on(s.layout()).unwrap()));
    });
    each("prompt-mistral layout + build", &|s| {
        drop(black_box(runtime.block_on(s.build(&messages)).unwrap()));
    });
    each("trim-exchanges trim, with the layout it needs", &|s| {
        drop(black_box(
            runtime.block_on(s.trim(&messages, None)).unwrap(),
        ));
    });
    each("filter-redact open", &|s| {
        drop(black_box(runtime.block_on(s.open_filter()).unwrap()));
    });
    group.finish();

    c.bench_function("filter-redact push", |b| {
        b.iter_custom(|times| {
            let mut filter = runtime.block_on(snapshot(&policies).open_filter()).unwrap();
            let start = Instant::now();
            for _ in 0..times {
                black_box(runtime.block_on(filter.push(" some words")).unwrap());
            }
            start.elapsed()
        });
    });
}

/// Time in which what was used is replaced.
const PAUSE: Duration = Duration::from_millis(2);

/// What the aim speaks of (docs/policy-speed.md): cache, trim and build of a request, the first and the
/// fourth of four that come at once. Criterion tells no 99th percentile.
fn quantiles(runtime: &Runtime, policies: &Policies, messages: &[Message]) {
    let three = async || {
        let snapshot = snapshot(policies);
        snapshot.cache_decide(messages).await.unwrap();
        let trimmed = snapshot.trim(messages, None).await.unwrap();
        snapshot.build(&trimmed.of(messages)).await.unwrap();
    };
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..2000 {
        std::thread::sleep(PAUSE);
        for times in &mut times {
            let start = Instant::now();
            runtime.block_on(three());
            times.push(start.elapsed());
        }
    }
    for (at, which) in [(0, "alone"), (3, "fourth at once")] {
        times[at].sort_unstable();
        let of = |percent: usize| times[at][(times[at].len() - 1) * percent / 100];
        println!(
            "cache + layout + trim + build, {which}: p50 {:?}, p99 {:?}",
            of(50),
            of(99)
        );
    }
}

/// The same with a guard.
async fn chain(policies: &Policies, messages: &[Message]) -> usize {
    let snapshot = snapshot(policies);
    snapshot.guard(messages).await.unwrap();
    snapshot.cache_decide(messages).await.unwrap();
    let trimmed = snapshot.trim(messages, None).await.unwrap();
    let prompt = snapshot.build(&trimmed.of(messages)).await.unwrap();
    prompt.tokens.len()
}

/// Everything that policies are asked from a request's first byte to its last: the chain, a filter
/// that is opened, fed once and ended, and whether the answer is kept.
async fn whole(policies: &Policies, messages: &[Message]) -> Option<Duration> {
    let snapshot = snapshot(policies);
    snapshot.guard(messages).await.unwrap();
    snapshot.cache_decide(messages).await.unwrap();
    let trimmed = snapshot.trim(messages, None).await.unwrap();
    snapshot.build(&trimmed.of(messages)).await.unwrap();
    let mut filter = snapshot.open_filter().await.unwrap();
    black_box(filter.push(ANSWER).await.unwrap());
    black_box(filter.finish(Finish::Stop).await.unwrap());
    snapshot.cache_admit(messages, ANSWER, outcome()).await
}

const ANSWER: &str = "Not yet, but it can be treated.";

fn outcome() -> AnswerOutcome {
    AnswerOutcome {
        finish: Finish::Stop,
        prompt_tokens: 100,
        output_tokens: 50,
        elapsed: Duration::from_secs(1),
    }
}

fn chains(c: &mut Criterion) {
    let (_bench, policies) = everything();
    let (runtime, messages) = (runtime(), history());
    quantiles(&runtime, &policies, &messages);
    // Requests that come one by one find the pool full.
    let mut alone = |name: &str, ask: &dyn Fn()| {
        c.bench_function(name, |b| {
            b.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    std::thread::sleep(PAUSE);
                    let start = Instant::now();
                    ask();
                    spent += start.elapsed();
                }
                spent
            });
        });
    };
    alone("chain guard + cache + trim + build, warm pool", &|| {
        black_box(runtime.block_on(chain(&policies, &messages)));
    });
    alone("whole chain with filter and admit, warm pool", &|| {
        black_box(runtime.block_on(whole(&policies, &messages)));
    });
    c.bench_function("chain guard + cache + trim + build, back to back", |b| {
        b.iter(|| runtime.block_on(chain(&policies, &messages)));
    });
    let mut bench = Bench::new();
    bench.settings.guard.bundled = Some("guard-limits".into());
    bench.settings.limits.warm = 0;
    let cold = bench.start();
    c.bench_function(
        "chain, every instance made from the pooling allocator",
        |b| {
            b.iter(|| runtime.block_on(chain(&cold, &messages)));
        },
    );
    c.bench_function(
        "instantiate-from-pool, configure and ask: guard-limits",
        |b| {
            b.iter_batched(
                || snapshot(&cold),
                |s| {
                    drop(black_box(
                        runtime.block_on(s.guard(&messages[..1])).unwrap(),
                    ))
                },
                BatchSize::PerIteration,
            );
        },
    );
}

/// Hears how long each store of a new generation took.
#[derive(Default)]
struct Stores(Mutex<Vec<Duration>>);

impl Observer for Stores {
    fn reloaded(&self, reload: &ReloadFacts) {
        self.0.lock().unwrap().push(reload.stored);
    }
}

/// The store by itself, as the gateway does it when a file has passed all stages.
fn swaps(c: &mut Criterion) {
    let (bench, stores) = (Bench::new(), Arc::new(Stores::default()));
    let around = Surroundings {
        tokenizer: Arc::new(Letters),
        data_dir: bench.root.path().join("data"),
        observer: stores.clone(),
        compiler: Some(bench.compiler.clone()),
    };
    let policies = Policies::start(bench.settings.clone(), around).unwrap();
    let files = [guest::keeper("one"), guest::keeper("two")];
    let runtime = runtime();
    let mut turn = 0;
    let mut group = c.benchmark_group("swap");
    group.sample_size(10);
    group.bench_function("store of a new generation, the old one still pinned", |b| {
        b.iter_custom(|times| {
            let before = stores.0.lock().unwrap().len();
            for _ in 0..times {
                turn += 1;
                let pinned = snapshot(&policies);
                bench.put("t.wasm", &files[turn % 2]);
                runtime.block_on(policies.reload()).unwrap();
                drop(pinned);
            }
            let stores = stores.0.lock().unwrap();
            assert_eq!(stores.len(), before + times as usize);
            stores[before..].iter().sum()
        });
    });
    group.finish();
}

fn changes(c: &mut Criterion) {
    let bench = Bench::new();
    let policies = bench.start();
    let files = [guest::keeper("one"), guest::keeper("two")];
    let mut turn = 0;
    let mut group = c.benchmark_group("reload");
    group.sample_size(20);
    group.bench_function(
        "file dropped to first request on it, compiled before",
        |b| {
            b.iter_custom(|times| {
                let start = Instant::now();
                for _ in 0..times {
                    turn += 1;
                    bench.put("t.wasm", &files[turn % 2]);
                    while serving(&policies, Hook::Trim).name != ["one", "two"][turn % 2] {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
                start.elapsed()
            });
        },
    );
    group.bench_function("file dropped to first request on it, compiled anew", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                turn += 1;
                let name: &'static str = Box::leak(format!("n{turn}").into_boxed_str());
                let fresh = guest::keeper(name);
                let start = Instant::now();
                bench.put("t.wasm", &fresh);
                while serving(&policies, Hook::Trim).name != name {
                    std::thread::sleep(Duration::from_micros(200));
                }
                spent += start.elapsed();
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(policy, hooks, chains, swaps, changes);
criterion_main!(policy);
