//! What must hold whatever is asked for and in whatever order: tested against a cache that checks
//! every operation as llama.cpp would do it.

mod cache;
mod examples;
mod parking;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::types::{SessionId, TenantId, Token};
use cache::Cache;

const CELLS: u32 = 160;
const CONTEXT: usize = 64;
const GROUP: usize = 4;

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

fn tenant(who: u8) -> TenantId {
    TenantId::new(if who < 4 { "a" } else { "b" })
}

fn session(who: u8) -> Option<SessionKey> {
    // 0 keeps nothing. Sessions of two tenants have the same names.
    (who > 0).then(|| SessionKey {
        tenant: tenant(who),
        session: SessionId::parse(&format!("s{}", who % 4)).unwrap(),
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
                    tenant: tenant(who),
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
    fn nobody_starves_while_others_keep_coming(
        acts in prop::collection::vec(act(), 0..40),
        who in 0_u8..8,
        len in 20_usize..40,
    ) {
        let mut bench = Bench::new(false);
        for act in &acts {
            bench.act(act);
        }
        let submit = |who, len| Act::Submit { who, start: 2, len, head: false, max: 8 };
        bench.act(&submit(who, len));
        let (waits, since) = (bench.next, bench.now);
        for newcomer in 0.. {
            if !bench.jobs.contains_key(&waits) {
                break;
            }
            if bench.scheduler.queued() < 4 {
                bench.act(&submit(newcomer % 8, 3));
            }
            bench.step();
            prop_assert!(bench.now - since < Duration::from_secs(60), "starved");
        }
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
            prop_assert!(others || !plan.slots().contains(&slot));
        }
    }
}
