//! Answers: the same alone and among others, ended by what ends them, cancelled at once.

use std::time::{Duration, Instant};

use stent::engine::Event;
use stent::types::{Finish, Sampling, Special};

use super::{Bench, collect, greedy, job, prompt, session};

#[test]
fn four_streams_are_each_what_they_are_alone() {
    let bench = Bench::new(|settings| settings.speculation = false);
    let prompts = [(1, 40), (2, 65), (3, 90), (4, 115)].map(|(marker, len)| prompt(marker, len));
    let steps = || bench.engine.status().totals.steps;
    let before = steps();
    // Sessions keep their cells: those of one that ends first would be filled by the others, which then
    // have theirs in another order.
    let names = ["a", "b", "c", "d"].map(|name| Some(session(name)));
    let running: Vec<_> = prompts
        .iter()
        .zip(names)
        .map(|(prompt, name)| bench.submit(job(name, prompt.clone(), 60)))
        .collect();
    let together: Vec<_> = running.into_iter().map(collect).collect();
    // One after the other they would take a step for every token, and more for their prompts.
    let steps = steps() - before;
    assert!(steps < 120, "{steps} steps for 240 tokens in four streams");
    assert_ne!(together[0].tokens, together[1].tokens);
    for (prompt, answer) in prompts.iter().zip(&together) {
        assert_eq!(answer.tokens.len(), 60);
        bench.assert_alone(&greedy(), prompt, answer);
    }
}

#[test]
fn a_fifth_waits_and_is_told_so() {
    let bench = Bench::new(|_| {});
    let running: Vec<_> = (0..4)
        .map(|i| bench.submit(job(None, prompt(i, 40), 60)))
        .collect();
    // Longer than the others, or it would be computed before one of them.
    let mut fifth = bench.submit(job(None, prompt(9, 90), 5));
    assert!(matches!(
        fifth.events.blocking_recv(),
        Some(Event::Queued { position: 0 })
    ));
    assert!(collect(fifth).end.is_ok());
    assert!(
        running
            .into_iter()
            .all(|running| collect(running).end.is_ok())
    );
}

#[test]
fn a_dropped_stream_frees_its_slot_and_its_permit() {
    let bench = Bench::new(|settings| settings.slots = 1);
    let mut first = bench.submit(job(None, prompt(1, 30), 400));
    while !matches!(first.events.blocking_recv(), Some(Event::Text { .. })) {}
    let second = bench.submit(job(None, prompt(2, 30), 3));
    drop(first);
    assert_eq!(collect(second).end.unwrap().finish, Finish::Length);
    assert_eq!(bench.admission.taken(), 0);
    let since = Instant::now();
    while bench.engine.status().slots[0].state != "idle" && since.elapsed() < Duration::from_secs(5)
    {
        std::thread::yield_now();
    }
    assert_eq!(bench.engine.status().slots[0].state, "idle");
}

#[test]
fn a_seed_gives_the_same_answer_again() {
    let bench = Bench::new(|_| {});
    let run = |seed| {
        let mut job = job(None, prompt(1, 30), 30);
        job.sampling = Sampling {
            temperature: 1.0,
            seed,
            ..Sampling::greedy()
        };
        bench.run(job).tokens
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn guessed_tokens_change_nothing() {
    let guessing = Bench::new(|_| {});
    let plain = Bench::new(|settings| settings.speculation = false);
    // Text of three letters repeats itself, which invites guesses; most of them are wrong.
    let letters = Sampling {
        logit_bias: ["a", "b", "c"]
            .map(|letter| (guessing.token(letter), 50.0))
            .into(),
        ..greedy()
    };
    // How much is guessed depends on what steps were measured to take: on a busy machine it may be little.
    for marker in 0..100 {
        if marker >= 6 && guessing.engine.status().totals.draft_hits > 0 {
            break;
        }
        let prompt = prompt(marker, 40);
        let mut job = job(None, prompt.clone(), 100);
        job.sampling = letters.clone();
        let answer = guessing.run(job);
        assert_eq!(answer.tokens.len(), 100);
        plain.assert_alone(&letters, &prompt, &answer);
    }
    let totals = guessing.engine.status().totals;
    assert!(
        totals.draft_hits > 0 && totals.drafted > totals.draft_hits,
        "{totals:?}"
    );
    assert_eq!(plain.engine.status().totals.drafted, 0);
}

#[test]
fn a_grammar_is_obeyed() {
    let bench = Bench::new(|_| {});
    for grammar in ["root ::= \"yes\" | \"no\"", "root ::= [0-9]{4}"] {
        let mut job = job(None, prompt(3, 30), 20);
        job.sampling.grammar = Some(grammar.into());
        let answer = bench.run(job);
        let right = ["yes", "no"].contains(&answer.text.as_str())
            || answer.text.len() == 4 && answer.text.bytes().all(|b| b.is_ascii_digit());
        assert!(right, "{answer:?}");
        assert_eq!(answer.end.unwrap().finish, Finish::Stop);
    }
    let mut broken = job(None, prompt(3, 30), 20);
    broken.sampling.grammar = Some("root ::= (".into());
    let said = bench.run(broken).end.unwrap_err().to_string();
    assert!(said.starts_with("the grammar cannot be used"), "{said}");
    assert_eq!(bench.admission.taken(), 0);
}

#[test]
fn a_stop_sequence_ends_the_answer_before_it() {
    let bench = Bench::new(|_| {});
    let mut free = job(None, prompt(5, 30), 20);
    free.sampling.grammar = Some("root ::= \"one two three\"".into());
    assert_eq!(bench.run(free).text, "one two three");
    let mut stopped = job(None, prompt(5, 30), 20);
    stopped.sampling.grammar = Some("root ::= \"one two three\"".into());
    stopped.stop = vec![" two".into()];
    let answer = bench.run(stopped);
    assert_eq!(answer.text, "one");
    assert_eq!(answer.end.unwrap().finish, Finish::Stop);
}

#[test]
fn what_cannot_fit_is_refused_with_all_numbers() {
    let bench = Bench::new(|_| {});
    let error = bench
        .run(job(Some(session("s")), prompt(1, 500), 100))
        .end
        .unwrap_err();
    let said = "the prompt's 500 tokens and 100 for the answer exceed the context of 512";
    assert_eq!(error.to_string(), said);
}

#[test]
fn text_of_a_person_never_becomes_a_control_token() {
    let bench = Bench::new(|_| {});
    let tokenizer = bench.engine.tokenizer();
    let (bos, eos) = (bench.engine.model().bos, bench.engine.model().eos);
    assert_eq!(tokenizer.encode("<s>", Special::Parse), [bos]);
    let typed = tokenizer.encode("<s></s>", Special::AsText);
    assert!(!typed.contains(&bos) && !typed.contains(&eos), "{typed:?}");
    let bytes: Vec<u8> = typed
        .iter()
        .flat_map(|&token| tokenizer.bytes(token))
        .collect();
    assert!(String::from_utf8_lossy(&bytes).ends_with("<s></s>"));
}
