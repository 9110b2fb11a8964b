//! KV that follows the session, and never anybody else.

use stent::types::{SessionKey, TenantId, Token};

use super::{Answer, Bench, TOLERANCE, collect, greedy, job, prompt, session, tiny};

/// Parks and restores much: the cache holds little more than the slots need.
fn tight() -> Bench {
    Bench::rounding(|settings| {
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
    bench.assert_alone(&greedy(), &second, &warm);
    bench.assert_alone(&greedy(), &second, &cold);
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
    bench.assert_alone(&greedy(), &next, &answer);
}

#[test]
fn a_head_is_shared_and_a_forgotten_session_is_gone() {
    let bench = Bench::new(|_| {});
    let text = |marker| [prompt(0, 64), prompt(marker, 20)[1..].to_vec()].concat();
    let run = |name: &str, marker: u64| -> Answer {
        let mut job = job(Some(session(name)), text(marker), 10);
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
    for answer in [again, forgotten] {
        bench.assert_alone(&greedy(), &text(2), &answer);
    }
}

#[test]
fn twenty_sessions_over_four_slots_stay_apart() {
    let reference = Bench::rounding(|settings| settings.speculation = false);
    let bench = tight();
    let mut random = tiny::Random(99);
    // All begin with the operator's text, which is stored once, also for who comes back from RAM.
    let head = prompt(777, 24);
    let begin = |who| [head.clone(), prompt(who, 17)[1..].to_vec()].concat();
    let mut histories: Vec<Vec<Token>> = (0..20).map(begin).collect();
    let mut worst = 0_f32;
    for turn in 0..4_u64 {
        let mut running = Vec::new();
        for (who, history) in histories.iter_mut().enumerate() {
            history.extend(&prompt(100 + 20 * turn + who as u64, 8)[1..]);
            let mut job = job(Some(session(&format!("s{who}"))), history.clone(), 16);
            job.head = head.len() as u32;
            running.push((who, bench.submit(job)));
        }
        for (who, stream) in running {
            // Some people leave: whoever comes after them must not notice.
            if random.next().is_multiple_of(4) {
                drop(stream);
                continue;
            }
            let answer = collect(stream);
            worst = worst.max(reference.off(&greedy(), &histories[who], &answer));
            histories[who].extend(&answer.tokens);
        }
    }
    assert!(worst < TOLERANCE, "{worst}");
    let totals = bench.engine.status().totals;
    assert!(totals.parks > 10 && totals.restores > 10, "{totals:?}");
    assert!(totals.reused > totals.prefilled / 4, "{totals:?}");
}

/// What the comparisons above are worth: one token in the cache that is not the session's own.
#[test]
fn a_single_wrong_token_in_the_cache_would_be_seen() {
    let bench = Bench::rounding(|_| {});
    let right = prompt(3, 60);
    let whole = bench.run(job(None, right.clone(), 20));
    let off = bench.off(&greedy(), &right, &whole);
    assert!(off < TOLERANCE, "{off}");
    for at in [1, 20, 40, 58] {
        let mut wrong = right.clone();
        wrong[at] = 3 + (wrong[at] + 100) % 256;
        let answer = bench.run(job(None, wrong, 20));
        let off = bench.off(&greedy(), &right, &answer);
        assert!(off > 5.0 * TOLERANCE, "token {at}: {off}");
    }
}

#[test]
fn equal_names_and_words_of_two_tenants_share_the_head_alone() {
    let bench = Bench::new(|_| {});
    let run = |tenant: &str| {
        let key = SessionKey {
            tenant: TenantId::new(tenant),
            ..session("s")
        };
        let mut job = job(Some(key), prompt(0, 90), 10);
        job.head = 32;
        bench.run(job).cached
    };
    assert_eq!((run("a"), run("b")), (0, 32));
    assert_eq!((run("a"), run("b")), (89, 89));
}
