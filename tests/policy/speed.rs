//! What calls cost, printed; that warm instances serve them; and that swaps under load harm nobody.

#![expect(unsafe_code, reason = "no crate here reads a thread's CPU time")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stent::policy::{AnswerOutcome, Hook, Observer, Policies};
use stent::types::{Finish, Message};

use super::guest::keeper;
use super::support::{Bench, eventually, plugin, serving, snapshot, talk};

fn quantile(sorted: &[u128], share: f64) -> u128 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// What a request asks, one thing right after the other.
async fn chain(policies: &Policies, messages: &[Message]) {
    let snapshot = snapshot(policies);
    snapshot.cache_decide(messages).await.unwrap();
    let trimmed = snapshot.trim(messages, None).await.unwrap();
    snapshot.build(&trimmed.of(messages)).await.unwrap();
}

/// The same with everything that policies are asked of an answer.
async fn whole(policies: &Policies, messages: &[Message]) {
    let snapshot = snapshot(policies);
    snapshot.guard(messages).await.unwrap();
    snapshot.cache_decide(messages).await.unwrap();
    let trimmed = snapshot.trim(messages, None).await.unwrap();
    snapshot.build(&trimmed.of(messages)).await.unwrap();
    let mut filter = snapshot.open_filter().await.unwrap();
    filter.push("It can be treated.").await.unwrap();
    filter.finish(Finish::Stop).await.unwrap();
    let outcome = AnswerOutcome {
        finish: Finish::Stop,
        prompt_tokens: 100,
        output_tokens: 50,
        elapsed: Duration::from_secs(1),
    };
    let kept = snapshot.cache_admit(messages, "It can be treated.", outcome);
    assert!(kept.await.is_some());
}

/// Processor time of this thread, in nanoseconds: it stands still while others have the processor.
fn processor_time() -> u128 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes into the struct that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u128 * 1_000_000_000 + time.tv_nsec as u128
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hooks_take_microseconds() {
    let mut bench = Bench::new();
    bench.settings.guard.bundled = Some("guard-limits".into());
    bench.settings.filter.bundled = Some("filter-redact".into());
    let policies = bench.start();
    let messages = talk(&[
        "What is diabetes?",
        "A disease.",
        "Signs?",
        "Thirst.",
        "Causes?",
        "Many.",
    ]);
    // Alone, and as the fourth of requests that come at once: its code and data are in the caches.
    let (mut alone, mut fourth, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..1500 {
        for at in 0..4 {
            let (start, began) = (Instant::now(), processor_time());
            chain(&policies, &messages).await;
            let worked = (processor_time() - began) / 1000;
            let took = start.elapsed().as_nanos() / 1000;
            match at {
                0 => {
                    alone.push(took);
                    cpu.push(worked);
                }
                3 => fourth.push(took),
                _ => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut all = Vec::new();
    for _ in 0..1000 {
        let start = Instant::now();
        whole(&policies, &messages).await;
        all.push(start.elapsed().as_nanos() / 1000);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    all.sort_unstable();
    println!(
        "guard, cache, layout, trim, build, filter, admit, alone: p50 {} us, p99 {} us",
        quantile(&all, 0.5),
        quantile(&all, 0.99)
    );
    for (which, times) in [
        ("alone", &mut alone),
        ("fourth at once", &mut fourth),
        ("alone, processor time", &mut cpu),
    ] {
        times.sort_unstable();
        println!(
            "cache + layout + trim + build, {which}: p50 {} us, p99 {} us",
            quantile(times, 0.5),
            quantile(times, 0.99)
        );
    }
    // A call that compiles or reads something again takes longer than that. Not the time on the clock,
    // which others on the machine decide about.
    assert!(quantile(&cpu, 0.5) < 2_000);
}

/// Time on the processor, as above.
#[tokio::test]
async fn a_filter_adds_at_most_20_us_to_a_chunk() {
    let mut bench = Bench::new();
    bench.settings.filter.bundled = Some("filter-redact".into());
    let policies = bench.start();
    let mut times = Vec::new();
    for _ in 0..40 {
        let mut filter = snapshot(&policies).open_filter().await.unwrap();
        for word in "Thirst, tiredness; write to ann@example.org or call 555 123 4567 then. "
            .repeat(5)
            .split_inclusive(' ')
        {
            let began = processor_time();
            filter.push(word).await.unwrap();
            times.push(processor_time() - began);
        }
        filter.finish(Finish::Stop).await.unwrap();
    }
    times.sort_unstable();
    let [half, most] = [0.5, 0.99].map(|share| quantile(&times, share));
    println!("a chunk through filter-redact: p50 {half} ns, p99 {most} ns of processor time");
    // Unoptimised code is measured by nobody.
    let bound = if cfg!(debug_assertions) {
        1_000_000
    } else {
        20_000
    };
    assert!(half <= bound, "{half} ns");
}

/// Counts the calls that no instance was ready for.
#[derive(Clone, Default)]
struct Cold(Arc<AtomicU64>);

impl Observer for Cold {
    fn cold(&self, hook: Hook) {
        assert_eq!(hook, Hook::Cache);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn calls_are_served_by_instances_that_were_made_ahead() {
    let messages = talk(&["What is diabetes?"]);
    for warm in [0, 4] {
        let mut bench = Bench::new();
        bench.settings.limits.warm = warm;
        let cold = Cold::default();
        let policies = bench.watched_by(Arc::new(cold.clone())).unwrap();
        let ask = async || {
            let before = cold.0.load(Ordering::Relaxed);
            snapshot(&policies).cache_decide(&messages).await.unwrap();
            cold.0.load(Ordering::Relaxed) - before
        };
        // The pool is full before anybody is served.
        for call in 0..4 {
            assert_eq!(ask().await, u64::from(warm == 0), "call {call}");
        }
        if warm == 0 {
            continue;
        }
        // What was used is replaced in good time.
        let start = Instant::now();
        let mut in_a_row = 0;
        while in_a_row < 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            in_a_row = if ask().await == 0 { in_a_row + 1 } else { 0 };
            assert!(start.elapsed() < Duration::from_secs(30));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_mix_and_lose_nothing() {
    let bench = Bench::new();
    bench.put("t.wasm", &keeper("keeper"));
    let policies = bench.start();
    let (stop, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (policies, stop, asked) = (policies.clone(), stop.clone(), asked.clone());
            tokio::spawn(async move {
                let messages = talk(&["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]);
                while !stop.load(Ordering::Relaxed) {
                    let snapshot = snapshot(&policies);
                    let own = snapshot.digest(Hook::Trim).0.to_owned();
                    let first = snapshot.trim(&messages, None).await.unwrap();
                    tokio::task::yield_now().await;
                    let second = snapshot.trim(&messages, None).await.unwrap();
                    assert_eq!(first, second, "one request saw two generations");
                    assert_eq!(own, snapshot.digest(Hook::Trim).0);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let (keeper, trimmer) = (keeper("keeper"), plugin("trim-exchanges"));
    let start = Instant::now();
    for swap in 0..40 {
        bench.put("t.wasm", if swap % 2 == 0 { &trimmer } else { &keeper });
        let listed = policies.reload().await.unwrap();
        let name = if swap % 2 == 0 {
            "trim-exchanges"
        } else {
            "keeper"
        };
        assert_eq!(
            serving(&policies, Hook::Trim).name,
            name,
            "swap {swap}: {listed:?}"
        );
    }
    println!(
        "40 swaps in {:?} under {} requests",
        start.elapsed(),
        asked.load(Ordering::Relaxed)
    );
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert_eq!(serving(&policies, Hook::Trim).name, "keeper");
    assert!(policies.generation() >= 41);
    eventually("old generations freed", || {
        (policies.live_generations() == 1).then_some(())
    });
}
