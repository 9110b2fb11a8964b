//! Bounds that a broken pool or a lost fast path would pass by far; figures are printed.

#![expect(unsafe_code, reason = "no crate here reads a thread's CPU time")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stent::policy::{AnswerOutcome, Hook, Policies};
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
    // Not the time on the clock, which others on the machine decide about.
    assert!(quantile(&cpu, 0.5) < 2_000);
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
