//! The real thread and the real watchdog, on a device that stands still when it is told to.

use std::sync::mpsc::{Receiver, Sender};

use tokio::sync::Semaphore;

use super::*;
use crate::types::{Finish, SessionId, Special, TenantId};

/// What the device does next, said by the test.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    GoOn,
    HangInStep,
    HangInDraw,
    PanicInDraw,
}

/// Hangs until it is released, as often as it is told to.
struct Hanging {
    ways: Receiver<Way>,
    release: Receiver<()>,
    way: Way,
}

impl Hanging {
    fn hang(&self, here: Way) {
        if self.way == here {
            // An error: the test is over, and so is the hanging.
            let _ = self.release.recv();
        }
    }
}

impl Device for Hanging {
    fn apply(&mut self, op: Op) -> Result<(), OpError> {
        match op {
            Op::Restore { seq, .. } => Err(OpError::Lost(seq)),
            _ => Ok(()),
        }
    }
    fn step(&mut self, _: &[Row]) -> Result<(), String> {
        self.way = self.ways.try_recv().unwrap_or(Way::GoOn);
        self.hang(Way::HangInStep);
        Ok(())
    }
    fn draw(&mut self, _: usize, _: &mut Sampler) -> Result<Token, String> {
        self.hang(Way::HangInDraw);
        assert!(self.way != Way::PanicInDraw, "told to");
        Ok(7)
    }
    fn is_end(&self, _: Token) -> bool {
        false
    }
}

struct Letters;

impl Tokenizer for Letters {
    fn encode(&self, text: &str, _: Special) -> Vec<Token> {
        text.bytes().map(Token::from).collect()
    }
    fn bytes(&self, _: Token) -> Vec<u8> {
        b"x".to_vec()
    }
}

const LIMIT: Duration = Duration::from_millis(200);
const PERMITS: usize = 10;

struct Bench {
    engine: Handle,
    ways: Sender<Way>,
    release: Sender<()>,
    permits: Arc<Semaphore>,
}

impl Bench {
    fn new() -> Self {
        let (ways, said) = channel::channel();
        let (release, released) = channel::channel();
        let parts = Parts {
            model: ModelInfo {
                name: "hanging".into(),
                fingerprint: String::new(),
                n_ctx: 256,
                n_vocab: 256,
                bos: 1,
                eos: 2,
                demo: false,
            },
            tokenizer: Arc::new(Letters),
            no_logprobs: None,
            grammars: Box::new(|_| Err(EngineError::Grammar("none here".into()))),
            limits: Limits {
                slots: 2,
                context: 256,
                cells: 512,
                idle_sessions: 2,
                park_bytes: 1 << 20,
                token_bytes: 1,
                max_rows: 64,
                max_chunk: 16,
                group: 1,
                budget: None,
                speculation: false,
            },
            stall_after: LIMIT,
            locked_bytes: 0,
        };
        let engine = start(parts, move |run| {
            run(&mut Hanging {
                ways: said,
                release: released,
                way: Way::GoOn,
            });
            Ok::<(), std::io::Error>(())
        });
        Self {
            engine: engine.unwrap(),
            ways,
            release,
            permits: Arc::new(Semaphore::new(PERMITS)),
        }
    }

    fn submit(&self, prompt: usize) -> Running {
        self.submit_for(None, prompt)
    }

    fn submit_for(&self, session: Option<&str>, prompt: usize) -> Running {
        let job = Job {
            tenant: TenantId::default(),
            session: session.map(|name| SessionKey {
                tenant: TenantId::default(),
                session: SessionId::parse(name).unwrap(),
            }),
            prompt: vec![5; prompt].into(),
            head: 0,
            messages: Vec::new(),
            sampling: Sampling::greedy(),
            max_tokens: 3,
            stop: Vec::new(),
            span: tracing::Span::none(),
        };
        let permit = Arc::clone(&self.permits).try_acquire_owned().unwrap();
        self.engine.submit(job, SlotPermit::new(permit))
    }

    /// Permits that are held.
    fn taken(&self) -> usize {
        PERMITS - self.permits.available_permits()
    }

    fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let begun = Instant::now();
        loop {
            let status = self.engine.status();
            if holds(&status) {
                return status;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{what}: {status:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The last event.
fn last(mut running: Running) -> Event {
    let mut last = None;
    while let Some(event) = running.events.blocking_recv() {
        let over = matches!(event, Event::Finished(_) | Event::Failed(_));
        last = Some(event);
        if over {
            break;
        }
    }
    last.unwrap()
}

/// The stall is seen, told to whoever waits, and over when the device comes back.
fn stalls(way: Way, prompt: usize, doing: &str) {
    let bench = Bench::new();
    bench.ways.send(way).unwrap();
    let stuck = bench.submit(prompt);
    let status = bench.until("the stall is seen", |status| !status.ready);
    let reason = status.reason.unwrap();
    assert!(
        reason.contains(doing) && reason.contains("for slot 0 has run"),
        "{reason}"
    );
    // The device still hangs, and yet nobody waits for it in vain.
    let end = last(stuck);
    assert!(
        matches!(end, Event::Failed(EngineError::Stalled { slot: 0, stalled }) if stalled >= LIMIT),
        "{end:?}"
    );
    assert!(!bench.engine.status().ready, "it hangs as before");
    // Whoever comes now waits; the slot is not free before the device is.
    let waiting = bench.submit(4);
    assert_eq!(bench.taken(), 2, "the permit lives as long as the work");
    bench.release.send(()).unwrap();
    let end = last(waiting);
    let Event::Finished(outcome) = end else {
        panic!("{end:?}");
    };
    assert_eq!((outcome.finish, outcome.output_tokens), (Finish::Length, 3));
    let status = bench.until("the slots are free", |status| {
        status.ready && status.slots.iter().all(|slot| slot.state == "idle")
    });
    assert_eq!((status.kv_cells_used, bench.taken()), (0, 0));
}

#[test]
fn a_hanging_step_is_seen_told_and_reclaimed() {
    stalls(Way::HangInStep, 4, "computing a step of 4 rows");
}

#[test]
fn a_prompt_whose_piece_hangs_is_reclaimed_too() {
    stalls(Way::HangInStep, 100, "computing a step of 16 rows");
}

#[test]
fn a_hanging_draw_is_seen_told_and_reclaimed() {
    stalls(Way::HangInDraw, 4, "drawing tokens from a step of 4 rows");
}

#[test]
fn what_could_not_be_put_back_is_not_told_as_cached() {
    let bench = Bench::new();
    // Two stay in the cache; the first is parked.
    for name in ["a", "b", "c"] {
        last(bench.submit_for(Some(name), 40));
    }
    let mut again = bench.submit_for(Some("a"), 40);
    let cached = loop {
        match again.events.blocking_recv() {
            Some(Event::Started { cached, .. }) => break cached,
            Some(Event::Queued { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(cached, 0);
    assert!(matches!(last(again), Event::Finished(_)));
    let idle = |status: &Status| status.slots.iter().all(|slot| slot.state == "idle");
    let totals = bench.until("it is over", idle).totals;
    assert_eq!((totals.restores, totals.reused), (1, 0));
}

#[test]
fn a_thread_that_panics_leaves_nobody_waiting() {
    let bench = Bench::new();
    bench.ways.send(Way::PanicInDraw).unwrap();
    let mut lost = bench.submit(4);
    while lost.events.blocking_recv().is_some() {}
    let status = bench.until("the end is seen", |status| !status.ready);
    assert_eq!(status.reason.unwrap(), EngineError::Stopped.to_string());
    assert!(!bench.engine.alive());
    assert!(matches!(
        last(bench.submit(4)),
        Event::Failed(EngineError::Stopped)
    ));
}

#[test]
fn a_process_can_end_although_a_step_hangs() {
    let bench = Bench::new();
    bench.ways.send(Way::HangInStep).unwrap();
    let stuck = bench.submit(4);
    bench.until("the stall is seen", |status| !status.ready);
    drop(bench.engine);
    assert!(matches!(
        last(stuck),
        Event::Failed(EngineError::Stalled { .. })
    ));
}
