//! The engine without a model.

use std::time::Duration;

use stent::engine::{EngineError, Kind};
use stent::types::{Finish, Special};

use super::{Bench, collect, job};

fn scripted(text: &str, token: Duration) -> Bench {
    Bench::new(|settings| {
        settings.kind = Kind::Scripted;
        settings.script.text = text.into();
        settings.script.token = token;
        settings.stall_after = Duration::from_secs(1);
    })
}

#[test]
fn it_says_its_text_to_everyone() {
    let bench = scripted("All is well today.", Duration::ZERO);
    let prompt = bench
        .engine
        .tokenizer()
        .encode("How are you?", Special::AsText);
    let running: Vec<_> = (0..10)
        .map(|_| bench.submit(job(None, prompt.clone(), 50)))
        .collect();
    for stream in running {
        let answer = collect(stream);
        assert_eq!(answer.text, "All is well today.");
        let outcome = answer.end.unwrap();
        assert_eq!((outcome.finish, outcome.output_tokens), (Finish::Stop, 4));
    }
    assert_eq!(
        bench.run(job(None, prompt, 2)).end.unwrap().finish,
        Finish::Length
    );
}

#[test]
fn a_step_that_hangs_makes_the_engine_unready_and_loses_its_slots() {
    let bench = scripted("slow words", Duration::from_millis(1600));
    let running = bench.submit(job(None, vec![1, 5, 6], 5));
    let stalled = loop {
        let status = bench.engine.status();
        if !status.ready {
            break status.reason.unwrap();
        }
        std::thread::yield_now();
    };
    assert!(
        stalled.contains("longer than engine.stall_after = 1 s"),
        "{stalled}"
    );
    let end = collect(running).end.unwrap_err();
    assert!(matches!(end, EngineError::Stalled { slot: 0, .. }), "{end}");
    // Its client need not wait for the step to come back; the permit does.
    while bench.admission.taken() > 0 || !bench.engine.status().ready {
        std::thread::yield_now();
    }
}
