//! Conversations whose window slides, on a machine that is only a table of step times: what the
//! first token of each turn waits for, without a model and without noise.

use std::collections::HashMap;

use super::*;
use crate::types::{SessionId, TenantId, Token};

/// Milliseconds of a step behind some hundred tokens of context, two AVX-512 cores, 8 layers. Sixteen
/// rows take a little longer here than a budget of four small steps.
const STEPS: [(usize, f64); 10] = [
    (1, 36.0),
    (2, 58.0),
    (3, 76.0),
    (4, 90.0),
    (8, 200.0),
    (16, 370.0),
    (32, 500.0),
    (64, 900.0),
    (128, 1700.0),
    (512, 6400.0),
];

/// The turns' shape, as `stent bench --only sessions` has it: tokens of system text, question and answer.
const SYSTEM: usize = 18;
const QUESTION: usize = 60;
const ANSWER: usize = 64;
/// Exchanges that the next prompt holds.
const KEPT: usize = 3;
const TURNS: usize = 8;

/// Seconds of a step, with lines between the measured ones.
fn seconds(rows: usize) -> f64 {
    let at = STEPS.iter().position(|step| step.0 >= rows).unwrap();
    let (high, slow) = STEPS[at];
    let (low, fast) = STEPS[at.saturating_sub(1)];
    let share = (rows - low) as f64 / (high - low).max(1) as f64;
    (fast + share * (slow - fast)) / 1000.0
}

struct Conversation {
    key: SessionKey,
    exchanges: Vec<Vec<Token>>,
}

impl Conversation {
    fn new(number: usize) -> Self {
        let session = SessionId::parse(&format!("s{number}")).unwrap();
        let tenant = TenantId::new("t");
        Self {
            key: SessionKey { tenant, session },
            exchanges: Vec::new(),
        }
    }

    /// What the next prompt starts with.
    fn start(&self) -> Vec<Token> {
        let from = self.exchanges.len().saturating_sub(KEPT);
        let kept = self.exchanges[from..].iter().flatten().copied();
        (0..SYSTEM as Token).chain(kept).collect()
    }
}

struct Asked {
    worker: usize,
    turn: usize,
    who: usize,
    at: Time,
    exchange: Vec<Token>,
    drawn: usize,
}

/// The machine, its scheduler and what is on its way.
struct Machine {
    scheduler: Scheduler,
    people: Vec<Conversation>,
    asked: HashMap<JobId, Asked>,
    slots: HashMap<usize, JobId>,
    /// First tokens in seconds, by turn.
    waits: Vec<Vec<f64>>,
    now: Time,
    jobs: JobId,
    tokens: Token,
    /// How much slower than the table the machine is, by the time of day.
    pace: fn(Time) -> f64,
}

impl Machine {
    fn new(people: usize, pace: fn(Time) -> f64) -> Self {
        let scheduler = Scheduler::new(Limits {
            slots: 4,
            context: 8192,
            cells: 32_768,
            idle_sessions: 16,
            park_bytes: 2 << 30,
            token_bytes: 32 << 10,
            max_rows: 2048,
            max_chunk: 512,
            group: 4,
            budget: None,
            speculation: false,
        });
        Self {
            scheduler,
            people: (0..people).map(Conversation::new).collect(),
            asked: HashMap::new(),
            slots: HashMap::new(),
            waits: vec![Vec::new(); TURNS],
            now: Time::ZERO,
            jobs: 0,
            tokens: 1000,
            pace,
        }
    }

    /// Tokens that nobody said before.
    fn text(&mut self, len: usize) -> Vec<Token> {
        let from = self.tokens;
        self.tokens += len as Token;
        (from..self.tokens).collect()
    }

    fn ask(&mut self, worker: usize, turn: usize, who: usize) {
        let question = self.text(QUESTION);
        let mut prompt = self.people[who].start();
        prompt.extend(&question);
        self.jobs += 1;
        let request = Request {
            id: self.jobs,
            tenant: self.people[who].key.tenant.clone(),
            session: Some(self.people[who].key.clone()),
            prompt: prompt.into(),
            head: SYSTEM,
            max_tokens: ANSWER,
        };
        self.scheduler.submit(request, self.now);
        let asked = Asked {
            worker,
            turn,
            who,
            at: self.now,
            exchange: question,
            drawn: 0,
        };
        self.asked.insert(self.jobs, asked);
    }

    /// One step; the workers whose answers are complete.
    fn step(&mut self) -> Vec<usize> {
        let plan = self.scheduler.plan(self.now);
        for started in &plan.started {
            self.slots.insert(started.slot, started.id);
        }
        let rows = plan.rows.len().max(1);
        let took = Duration::from_secs_f64(seconds(rows) * (self.pace)(self.now));
        self.now += took;
        let (mut drawn, mut over) = (Vec::new(), Vec::new());
        for sample in &plan.samples {
            let token = self.text(1);
            let id = self.slots[&sample.slot];
            let asked = self.asked.get_mut(&id).unwrap();
            if asked.drawn == 0 {
                let wait = self.now - asked.at;
                self.waits[asked.turn].push(wait.as_secs_f64());
            }
            asked.exchange.extend(&token);
            asked.drawn += 1;
            if asked.drawn == ANSWER {
                over.push(id);
            }
            drawn.push(Drawn {
                tokens: token,
                end: false,
            });
        }
        self.scheduler.complete(plan, &drawn, took, self.now);
        over.into_iter().map(|id| self.answered(id)).collect()
    }

    fn answered(&mut self, id: JobId) -> usize {
        let asked = self.asked.remove(&id).unwrap();
        let person = &mut self.people[asked.who];
        person.exchanges.push(asked.exchange);
        let (key, next) = (person.key.clone(), person.start());
        self.scheduler.prepare(key, next.into(), self.now);
        asked.worker
    }

    /// Each worker takes its own conversations through all turns, turn by turn, as fast as it can:
    /// median first tokens in seconds, by turn.
    fn first_tokens(mut self, workers: usize) -> Vec<f64> {
        let people = self.people.len();
        let mut left: Vec<VecDeque<(usize, usize)>> = (0..workers)
            .map(|worker| {
                let own = move |turn| {
                    (worker..people)
                        .step_by(workers)
                        .map(move |who| (turn, who))
                };
                (0..TURNS).flat_map(own).collect()
            })
            .collect();
        let mut free: Vec<usize> = (0..workers).collect();
        loop {
            for worker in std::mem::take(&mut free) {
                if let Some((turn, who)) = left[worker].pop_front() {
                    self.ask(worker, turn, who);
                }
            }
            if self.asked.is_empty() {
                break;
            }
            free = self.step();
        }
        let median = |turn: &mut Vec<f64>| {
            turn.sort_by(f64::total_cmp);
            turn[turn.len() / 2]
        };
        self.waits.iter_mut().map(median).collect()
    }
}

#[test]
fn a_sliding_window_costs_nothing_on_a_steady_machine() {
    let turns = Machine::new(6, |_| 1.0).first_tokens(2);
    for late in &turns[4..] {
        assert!(*late <= 1.2 * turns[1], "{turns:.2?}");
    }
}

/// Something else takes a third of the machine for half a minute of every two.
#[test]
fn a_sliding_window_costs_little_on_a_machine_that_stumbles() {
    let stumbles = |now: Time| if now.as_secs() % 120 < 30 { 1.5 } else { 1.0 };
    let turns = Machine::new(6, stumbles).first_tokens(2);
    for late in &turns[4..] {
        assert!(*late <= 1.5 * turns[1], "{turns:.2?}");
    }
}
