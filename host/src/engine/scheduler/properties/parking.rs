//! Who goes when room runs out, and what of it a session finds again.

use super::*;

/// Tokens of each turn that are computed: a prompt of 40 and all of the answer but its last token.
const TURN: usize = 42;
const HEAD: usize = 20;

struct Turns {
    scheduler: Scheduler,
    now: Time,
    id: JobId,
}

impl Turns {
    /// Two sessions may stay in the cache, and as many as `parked` in RAM.
    fn new(parked: usize) -> Self {
        let scheduler = Scheduler::new(Limits {
            slots: 1,
            context: 64,
            cells: 1000,
            idle_sessions: 2,
            park_bytes: (parked * TURN) as u64,
            token_bytes: 1,
            max_rows: 64,
            max_chunk: 64,
            group: GROUP,
            budget: None,
            speculation: false,
        });
        Self {
            scheduler,
            now: Time::ZERO,
            id: 0,
        }
    }

    /// A prompt that shares `head` tokens with all others.
    fn request(&mut self, who: u8, head: usize) -> Request {
        self.id += 1;
        let own = (head..40).map(|i| Token::from(who) * 100 + i as Token);
        Request {
            id: self.id,
            tenant: tenant(0),
            session: Some(key(who)),
            prompt: (0..head as Token).chain(own).collect(),
            head,
            max_tokens: 3,
        }
    }

    /// One turn from its question to its last token; the work on the cache that it took.
    fn turn(&mut self, who: u8, head: usize) -> Vec<Op> {
        let request = self.request(who, head);
        self.scheduler.submit(request, self.now);
        self.run()
    }

    fn run(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        while self.scheduler.has_work() {
            self.now += Duration::from_millis(50);
            let plan = self.scheduler.plan(self.now);
            ops.extend(&plan.ops);
            let drawn = vec![
                Drawn {
                    tokens: vec![9],
                    end: false
                };
                plan.samples.len()
            ];
            self.scheduler
                .complete(plan, &drawn, Duration::from_millis(50), self.now);
        }
        ops
    }

    /// How much of a session would be found again.
    fn found(&mut self, who: u8) -> usize {
        let prompt = self.request(who, 0).prompt;
        self.scheduler.kv.cached(Some(&key(who)), &prompt, 0)
    }
}

fn key(who: u8) -> SessionKey {
    SessionKey {
        tenant: tenant(0),
        session: SessionId::parse(&format!("p{who}")).unwrap(),
    }
}

proptest! {
    #[test]
    fn whoever_asked_longest_ago_goes_first(
        turns in prop::collection::vec(0_u8..7, 1..40),
        parked in 0_usize..4,
    ) {
        let mut bench = Turns::new(parked);
        let mut recent: Vec<u8> = Vec::new();
        for who in turns {
            bench.turn(who, 0);
            recent.retain(|other| *other != who);
            recent.insert(0, who);
            for who in 0..7 {
                let kept = recent.iter().take(2 + parked).any(|other| *other == who);
                prop_assert_eq!(bench.found(who) > 0, kept, "{} of {:?}", who, recent);
            }
        }
    }
}

#[test]
fn the_head_is_stored_once_for_who_comes_back_from_ram_too() {
    let mut bench = Turns::new(3);
    for who in 1..5 {
        bench.turn(who, HEAD);
    }
    assert_eq!(bench.scheduler.parked().0, 2);
    assert_eq!(bench.scheduler.cells_used(), HEAD + 2 * (TURN - HEAD));
    let ops = bench.turn(1, HEAD);
    assert!(ops.iter().any(|op| matches!(op, Op::Restore { .. })));
    assert_eq!(bench.scheduler.cells_used(), HEAD + 2 * (TURN - HEAD));
}

#[test]
fn the_head_is_stored_once_although_two_computed_it_at_once() {
    let mut bench = Turns::new(0);
    bench.scheduler.limits.slots = 2;
    bench.scheduler.slots.push(Slot::Idle);
    for who in 1..3 {
        let request = bench.request(who, HEAD);
        bench.scheduler.submit(request, bench.now);
    }
    let ops = bench.run();
    let adopted = |op: &Op| matches!(op, Op::Adopt { len: 20, .. });
    assert_eq!(ops.iter().filter(|op| adopted(op)).count(), 1, "{ops:?}");
    assert_eq!(bench.scheduler.cells_used(), HEAD + 2 * (TURN - HEAD));
}

#[test]
fn what_waits_leaves_nothing_of_a_session_that_is_forgotten() {
    let mut bench = Turns::new(3);
    let [first, second] = [1, 2].map(|who| bench.request(who, 0));
    bench.scheduler.submit(first, bench.now);
    bench.scheduler.submit(second, bench.now);
    bench.scheduler.forget(&key(2), bench.now);
    bench.run();
    assert_eq!((bench.found(1), bench.found(2)), (40, 0));
}
