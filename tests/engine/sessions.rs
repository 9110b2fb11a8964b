//! KV that follows the session, and never anybody else.

use super::{Answer, Bench, collect, greedy, job, prompt, session, tiny};

/// Parks and restores much: the cache holds little more than the slots need.
fn tight() -> Bench {
    Bench::new(|settings| {
        settings.n_ctx = 256;
        settings.kv_cells = 1024;
        settings.kv_sessions = 4;
    })
}

#[test]
fn a_session_that_comes_back_reuses_its_tokens_and_says_the_same() {
    let bench = Bench::new(|_| {});
    let first = prompt(1, 80);
    let answer = bench.run(job(Some(session("a")), first.clone(), 20));
    let mut second = first;
    second.extend(&answer.tokens);
    second.extend(prompt(2, 15));
    let warm = bench.run(job(Some(session("a")), second.clone(), 30));
    let cold = bench.run(job(None, second.clone(), 30));
    assert_eq!(
        (warm.cached, cold.cached),
        (99, 0),
        "all but the last token drawn, of 80 and 20"
    );
    bench.assert_drawn_from(&greedy(), &second, &warm.tokens);
    bench.assert_drawn_from(&greedy(), &second, &cold.tokens);
}

#[test]
fn what_was_prepared_in_the_gap_need_not_be_computed() {
    let bench = Bench::new(|_| {});
    let next = prompt(7, 120);
    bench.engine.prepare(&session("a"), next[..100].into());
    let answer = loop {
        if bench.engine.status().totals.prepared >= 100 {
            break bench.run(job(Some(session("a")), next.clone(), 20));
        }
        std::thread::yield_now();
    };
    assert_eq!(answer.cached, 100);
    bench.assert_drawn_from(&greedy(), &next, &answer.tokens);
}

#[test]
fn a_head_is_shared_and_a_forgotten_session_is_gone() {
    let bench = Bench::new(|_| {});
    let run = |name: &str, marker: u64| -> Answer {
        let mut tokens = prompt(0, 64);
        tokens.extend(&prompt(marker, 20)[1..]);
        let mut job = job(Some(session(name)), tokens, 10);
        job.head = 64;
        bench.run(job)
    };
    assert_eq!(run("a", 1).cached, 0);
    assert_eq!(run("b", 2).cached, 64, "the operator's text is everybody's");
    let again = run("b", 2);
    assert_eq!(again.cached, 82, "all of the prompt but its last token");
    bench.engine.forget(&session("b"));
    let forgotten = run("b", 2);
    assert_eq!(forgotten.cached, 64);
    assert_eq!(forgotten.tokens, again.tokens);
}

#[test]
fn twenty_sessions_over_four_slots_stay_apart() {
    let reference = Bench::new(|settings| settings.speculation = false);
    let bench = tight();
    let mut random = tiny::Random(99);
    let mut histories: Vec<_> = (0..20).map(|who| prompt(who, 40)).collect();
    for turn in 0..4_u64 {
        let mut running = Vec::new();
        for (who, history) in histories.iter_mut().enumerate() {
            history.extend(&prompt(100 + 20 * turn + who as u64, 8)[1..]);
            let stream = bench.submit(job(Some(session(&format!("s{who}"))), history.clone(), 16));
            running.push((who, stream));
        }
        for (who, stream) in running {
            // Some people leave: whoever comes after them must not notice.
            if random.next().is_multiple_of(4) {
                drop(stream);
                continue;
            }
            let answer = collect(stream);
            reference.assert_drawn_from(&greedy(), &histories[who], &answer.tokens);
            histories[who].extend(&answer.tokens);
        }
    }
    let totals = bench.engine.status().totals;
    assert!(totals.parks > 10 && totals.restores > 10, "{totals:?}");
    assert!(totals.reused > totals.prefilled / 4, "{totals:?}");
}
