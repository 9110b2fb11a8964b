//! What must hold whatever is asked for and in whatever order: tested against a cache that checks
//! every operation as llama.cpp would do it.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;

use super::plan::Sample;
use super::*;
use crate::types::{SessionId, TenantId};

const CELLS: u32 = 160;
const CONTEXT: usize = 64;
const GROUP: usize = 4;

/// A cache as llama.cpp has it: cells with a position and the sequences they belong to.
#[derive(Default)]
struct Cache {
    seqs: HashMap<SeqId, Vec<(usize, Token)>>,
    parked: HashMap<Ticket, Vec<Token>>,
    next_cell: usize,
}

impl Cache {
    fn cells(&self) -> usize {
        self.seqs
            .values()
            .flatten()
            .map(|(cell, _)| *cell)
            .collect::<HashSet<_>>()
            .len()
    }

    fn tokens(&self, seq: SeqId) -> Vec<Token> {
        self.seqs
            .get(&seq)
            .into_iter()
            .flatten()
            .map(|(_, token)| *token)
            .collect()
    }

    fn add(&mut self, seq: SeqId, token: Token) {
        self.next_cell += 1;
        self.seqs
            .entry(seq)
            .or_default()
            .push((self.next_cell, token));
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Remove { seq, from } => {
                let body = self.seqs.entry(seq).or_default();
                body.truncate(from as usize);
            }
            Op::Share { from, to, len } => {
                let shared = self.seqs[&from][..len as usize].to_vec();
                let old = self.seqs.insert(to, shared);
                assert!(
                    old.is_none_or(|old| old.is_empty()),
                    "shared into a sequence in use"
                );
            }
            Op::Park { seq, ticket } => {
                let tokens = self.tokens(seq);
                assert!(!tokens.is_empty());
                self.parked.insert(ticket, tokens);
                self.seqs.remove(&seq);
            }
            Op::Restore { seq, ticket, len } => {
                assert!(
                    self.tokens(seq).is_empty(),
                    "restored over a sequence in use"
                );
                let tokens = self.parked.remove(&ticket).expect("the copy is there");
                assert_eq!(tokens.len(), len as usize);
                for token in tokens {
                    self.add(seq, token);
                }
            }
            Op::Discard { ticket } => {
                self.parked.remove(&ticket).expect("the copy is there");
            }
        }
        assert!(
            self.cells() <= CELLS as usize,
            "{op:?} overfills the cache: {}",
            self.cells()
        );
    }

    fn step(&mut self, rows: &[Row]) {
        for row in rows {
            let len = self.seqs.get(&row.seq).map_or(0, Vec::len);
            assert_eq!(row.pos as usize, len, "positions are consecutive: {row:?}");
            self.add(row.seq, row.token);
        }
        assert!(
            self.cells() <= CELLS as usize,
            "the step overfills the cache: {}",
            self.cells()
        );
    }
}

/// What a client may do.
#[derive(Clone, Debug)]
enum Act {
    Submit {
        who: u8,
        start: u8,
        len: usize,
        head: bool,
        max: usize,
    },
    Cancel(usize),
    Prepare {
        who: u8,
        start: u8,
        len: usize,
    },
    Forget(u8),
    Shed,
    Step,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0_u8..8, 0_u8..3, 1_usize..40, any::<bool>(), 1_usize..20)
            .prop_map(|(who, start, len, head, max)| Act::Submit { who, start, len, head, max }),
        1 => (0_usize..20).prop_map(Act::Cancel),
        1 => (0_u8..8, 0_u8..3, 1_usize..40).prop_map(|(who, start, len)| Act::Prepare { who, start, len }),
        1 => (0_u8..8).prop_map(Act::Forget),
        1 => Just(Act::Shed),
        6 => Just(Act::Step),
    ]
}

fn session(who: u8) -> Option<SessionKey> {
    // 0 keeps nothing.
    (who > 0).then(|| SessionKey {
        tenant: TenantId::new(if who < 4 { "a" } else { "b" }),
        session: SessionId::parse(&format!("s{who}")).unwrap(),
    })
}

/// The same for everybody at first, then the session's own.
fn prompt(who: u8, start: u8, len: usize) -> Arc<[Token]> {
    let own = 1000 * Token::from(who) + 100 * Token::from(start);
    (0..len)
        .map(|i| if i < 18 { i as Token } else { own + i as Token })
        .collect()
}

/// A job's prompt, its `max_tokens` and what was drawn for it.
type Running = (Arc<[Token]>, usize, Vec<Token>);

struct Bench {
    scheduler: Scheduler,
    cache: Cache,
    now: Time,
    next: JobId,
    /// The jobs that are not over.
    jobs: BTreeMap<JobId, Running>,
    slots: HashMap<usize, JobId>,
    cancelled: HashSet<JobId>,
    seqs: HashMap<JobId, SeqId>,
}

impl Bench {
    fn new(speculation: bool) -> Self {
        let limits = Limits {
            slots: 3,
            context: CONTEXT,
            cells: CELLS,
            idle_sessions: 3,
            park_bytes: 200,
            token_bytes: 2,
            max_rows: 32,
            max_chunk: 16,
            group: GROUP,
            budget: None,
            speculation,
        };
        Self {
            scheduler: Scheduler::new(limits),
            cache: Cache::default(),
            now: Time::ZERO,
            next: 0,
            jobs: BTreeMap::new(),
            slots: HashMap::new(),
            cancelled: HashSet::new(),
            seqs: HashMap::new(),
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Submit {
                who,
                start,
                len,
                head,
                max,
            } => {
                self.next += 1;
                let prompt = prompt(who, start, len);
                let request = Request {
                    id: self.next,
                    session: session(who),
                    prompt: Arc::clone(&prompt),
                    head: if head { 18.min(len) } else { 0 },
                    max_tokens: max,
                };
                self.scheduler.submit(request, self.now);
                self.jobs.insert(self.next, (prompt, max, Vec::new()));
            }
            Act::Cancel(at) => {
                if let Some(&id) = self.jobs.keys().nth(at) {
                    self.scheduler.cancel(id, self.now);
                    self.over(id);
                    self.cancelled.insert(id);
                }
            }
            Act::Prepare { who, start, len } => {
                if let Some(session) = session(who) {
                    self.scheduler
                        .prepare(session, prompt(who, start, len), self.now);
                }
            }
            Act::Shed => {
                self.scheduler.shed();
                assert_eq!(self.scheduler.parked(), (0, 0));
            }
            Act::Forget(who) => {
                if let Some(session) = session(who) {
                    self.scheduler.forget(&session, self.now);
                }
            }
            Act::Step => self.step(),
        }
    }

    fn over(&mut self, id: JobId) {
        self.jobs.remove(&id);
        self.slots.retain(|_, job| *job != id);
        self.seqs.remove(&id);
    }

    fn step(&mut self) {
        let plan = self.scheduler.plan(self.now);
        for &op in &plan.ops {
            self.cache.apply(op);
        }
        for started in &plan.started {
            assert!(
                !self.cancelled.contains(&started.id),
                "a cancelled job started"
            );
            assert!(
                self.slots.insert(started.slot, started.id).is_none(),
                "two jobs in one slot"
            );
            assert!(
                started.cached < self.jobs[&started.id].0.len(),
                "the last token is computed"
            );
        }
        assert!(plan.rows.len() <= 32);
        self.cache.step(&plan.rows);
        let mut drawn = Vec::new();
        let mut ended = Vec::new();
        for sample in &plan.samples {
            let id = self.slots[&sample.slot];
            let rows = &plan.rows[sample.rows.clone()];
            let (prompt, max, answer) = self.jobs.get_mut(&id).expect("the slot's job runs");
            // What the cache holds before the first row is prompt and answer, nothing else.
            let mut right: Vec<Token> = prompt.to_vec();
            right.extend(answer.iter());
            let seen = self.cache.tokens(rows[0].seq);
            assert_eq!(seen[..=rows[0].pos as usize], right[..]);
            let mut tokens = Vec::new();
            for (i, row) in rows.iter().enumerate() {
                // The "model" repeats its text every five tokens, so that guesses are often right.
                let token = 5000 + (row.pos as Token * 7 + Token::from(id.is_multiple_of(3))) % 5;
                tokens.push(token);
                if rows.get(i + 1).is_none_or(|guess| guess.token != token) {
                    break;
                }
            }
            answer.extend(&tokens);
            let end = answer.len() % 17 == 0;
            assert!(answer.len() <= *max, "more tokens than reserved");
            if end || answer.len() == *max {
                ended.push(id);
            }
            drawn.push(Drawn { tokens, end });
        }
        let took = Duration::from_millis(50 + 10 * plan.rows.len() as u64);
        self.now += took;
        self.scheduler.complete(plan, &drawn, took, self.now);
        for id in ended {
            self.over(id);
        }
        let used = self.scheduler.cells_used();
        assert!(used + GROUP - 1 <= CELLS as usize, "{used} cells promised");
    }

    /// Runs until nothing is left to do.
    fn finish(&mut self) {
        for _ in 0..4000 {
            if self.jobs.is_empty() && !self.scheduler.has_work() {
                break;
            }
            self.step();
        }
        assert!(self.jobs.is_empty(), "starved: {:?}", self.jobs.keys());
        assert!(!self.scheduler.has_work());
        for &op in &self.scheduler.plan(self.now).ops {
            self.cache.apply(op);
        }
        // The books and the cache agree, so no cell is lost.
        assert_eq!(self.cache.cells(), self.scheduler.cells_used());
        assert_eq!(self.cache.parked.len(), self.scheduler.parked().0);
        assert!(self.scheduler.parked().1 <= 200);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_cache_is_never_wrong_and_nobody_starves(
        acts in prop::collection::vec(act(), 1..80),
        speculation: bool,
    ) {
        let mut bench = Bench::new(speculation);
        for act in &acts {
            bench.act(act);
        }
        bench.finish();
    }

    #[test]
    fn a_cancelled_job_is_gone_in_the_next_plan(
        acts in prop::collection::vec(act(), 1..40),
        at in 0_usize..10,
    ) {
        let mut bench = Bench::new(false);
        for act in &acts {
            bench.act(act);
        }
        let running: Vec<_> = bench.slots.iter().map(|(slot, id)| (*slot, *id)).collect();
        if let Some(&(slot, id)) = running.get(at % running.len().max(1)) {
            bench.act(&Act::Cancel(bench.jobs.keys().position(|job| *job == id).unwrap()));
            let plan = bench.scheduler.plan(bench.now);
            let others = plan.started.iter().any(|started| started.slot == slot);
            prop_assert!(others || plan.samples.iter().all(|sample| sample.slot != slot));
        }
    }
}

fn limits() -> Limits {
    Limits {
        slots: 4,
        context: 4096,
        cells: 16_384,
        idle_sessions: 8,
        park_bytes: 0,
        token_bytes: 1,
        max_rows: 2048,
        max_chunk: 512,
        group: GROUP,
        budget: None,
        speculation: false,
    }
}

fn request(id: JobId, who: u8, len: usize, max_tokens: usize) -> Request {
    let base = Token::from(who) * 10_000;
    let prompt = (0..len as Token).map(|i| base + i).collect();
    Request {
        id,
        session: session(who),
        prompt,
        head: 0,
        max_tokens,
    }
}

/// Milliseconds of a step, as measured on a 7B shape.
fn step_time(rows: usize) -> Duration {
    let ms = match rows {
        1 => 66,
        2 => 108,
        3 => 137,
        4 => 109,
        n if n <= 131 => 48 + 15 * n as u64,
        n => 12 * n as u64,
    };
    Duration::from_millis(ms)
}

/// Runs one step with a drawn token for every sample; returns its rows and its length.
fn run(scheduler: &mut Scheduler, now: &mut Time) -> (Vec<Row>, Vec<Sample>, Duration) {
    let plan = scheduler.plan(*now);
    let took = step_time(plan.rows.len());
    *now += took;
    let drawn: Vec<_> = plan
        .samples
        .iter()
        .map(|_| Drawn {
            tokens: vec![9],
            end: false,
        })
        .collect();
    let (rows, samples) = (plan.rows.clone(), plan.samples.clone());
    scheduler.complete(plan, &drawn, took, *now);
    (rows, samples, took)
}

#[test]
fn a_long_prompt_does_not_freeze_the_answers() {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    for who in 1..4 {
        scheduler.submit(request(who.into(), who, 30, 400), now);
    }
    for _ in 0..20 {
        run(&mut scheduler, &mut now);
    }
    scheduler.submit(request(9, 5, 1300, 50), now);
    let begun = now;
    let mut worst = Duration::ZERO;
    while scheduler.doing(3) != Doing::Decode {
        let (_, samples, took) = run(&mut scheduler, &mut now);
        assert!(samples.len() >= 3, "all three answers go on in every step");
        worst = worst.max(took);
    }
    assert!(worst <= Duration::from_millis(480), "{worst:?}");
    assert!(now - begun < Duration::from_secs(30), "{:?}", now - begun);
}

#[test]
fn three_answers_are_padded_once_that_is_known_to_pay() {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    for who in 1..4 {
        scheduler.submit(request(who.into(), who, 30, 400), now);
    }
    for _ in 0..30 {
        run(&mut scheduler, &mut now);
    }
    assert_eq!(run(&mut scheduler, &mut now).0.len(), 4);
}

#[test]
fn a_short_prompt_overtakes_a_long_one_that_is_being_computed() {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    scheduler.submit(request(1, 1, 2000, 10), now);
    run(&mut scheduler, &mut now);
    scheduler.submit(request(2, 5, 20, 10), now);
    run(&mut scheduler, &mut now);
    assert_eq!(scheduler.doing(1), Doing::Decode);
    assert_eq!(scheduler.doing(0), Doing::Prefill);
}

#[test]
fn a_session_that_comes_back_computes_only_what_is_new() {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    scheduler.submit(request(1, 1, 100, 5), now);
    while scheduler.has_work() {
        run(&mut scheduler, &mut now);
    }
    scheduler.submit(request(2, 1, 130, 5), now);
    let plan = scheduler.plan(now);
    assert_eq!(plan.started[0].cached, 100);
    assert_eq!(plan.rows.len(), 30);
    // Another session with the very same text gets nothing of it.
    let mut other = request(3, 5, 0, 5);
    other.prompt = request(1, 1, 100, 5).prompt;
    scheduler.submit(other, now);
    assert_eq!(scheduler.plan(now).started[0].cached, 0);
}

#[test]
fn a_gap_is_used_for_the_next_turn_and_given_up_at_once() {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    let next = request(0, 1, 300, 1).prompt;
    scheduler.prepare(session(1).unwrap(), Arc::clone(&next), now);
    let (rows, samples, _) = run(&mut scheduler, &mut now);
    assert!(samples.is_empty() && !rows.is_empty());
    scheduler.submit(request(7, 5, 40, 1), now);
    let plan = scheduler.plan(now);
    assert_eq!(
        plan.rows.len(),
        40,
        "nothing is computed ahead while a request waits"
    );
    scheduler.complete(
        plan,
        &[Drawn {
            tokens: vec![9],
            end: true,
        }],
        step_time(40),
        now,
    );
    while scheduler.has_work() {
        run(&mut scheduler, &mut now);
    }
    scheduler.submit(request(8, 1, 320, 1), now);
    assert_eq!(scheduler.plan(now).started[0].cached, 300);
}

#[test]
fn the_common_head_is_stored_once() {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    let with_head = |id, who: u8| {
        let mut tokens: Vec<Token> = (0..200).collect();
        tokens.extend((0..20).map(|i| Token::from(who) * 1000 + i));
        Request {
            id,
            session: session(who),
            prompt: tokens.into(),
            head: 200,
            max_tokens: 4,
        }
    };
    for who in 1..8 {
        scheduler.submit(with_head(who.into(), who), now);
        while scheduler.has_work() {
            run(&mut scheduler, &mut now);
        }
    }
    let used = scheduler.cells_used();
    assert_eq!(
        used,
        200 + 7 * 23,
        "the last drawn token of an answer is never computed"
    );
}
