//! What a policy costs: times of its calls from warm instances, as a request sees them, and the
//! fuel that the same calls burn.

mod counting;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use serde::Serialize;
use thiserror::Error;

use super::budget::Budget;
use super::fault::RunError;
use super::generation::Revision;
use super::stage::Rejection;
use super::stages::ActiveFilter;
use super::types::{AnswerOutcome, Facts, Hook, Step};
use super::workbench::{Draft, Workbench};
use crate::types::{Finish, Message, Role, Special, TenantId};
use counting::Counting;

/// Time and fuel of one function.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub hook: Hook,
    /// `instantiate`, `configure`, or the function of the hook.
    pub what: &'static str,
    pub calls: usize,
    /// Microseconds.
    pub p50_us: f64,
    pub p99_us: f64,
    /// About one for each instruction of the guest: the same on every machine, and in every run that
    /// takes the same way.
    pub p50_fuel: u64,
    pub p99_fuel: u64,
}

/// All figures of one hook.
#[derive(Clone, Debug, Serialize)]
pub struct Speed {
    pub hook: Hook,
    pub figures: Vec<Figures>,
    /// The most memory that an instance had at the end of a call, in bytes.
    pub memory_peak: usize,
}

/// Why there are no figures.
#[derive(Debug, Error)]
pub enum Unmeasured {
    #[error("{0}")]
    Fault(#[from] RunError),
    #[error("{0}")]
    Rejected(Rejection),
    #[error("the WebAssembly runtime cannot start: {0:#}")]
    Runtime(wasmtime::Error),
    #[error("the temporary folder cannot be used: {0}")]
    Scratch(io::Error),
}

/// What is measured of calls.
#[derive(Clone, Copy)]
enum Unit {
    Microseconds,
    Fuel,
}

/// One value for each call of a function.
struct Samples {
    what: &'static str,
    values: Vec<f64>,
}

/// Calls that are counted: fuel varies less than time.
const COUNTED: usize = 200;

/// Six messages of history and a new one: what the project's own figures are taken with.
const TALK: [&str; 7] = [
    "What is diabetes?",
    "Diabetes is a disease in which the blood holds too much sugar.",
    "What are the signs of it?",
    "Thirst, tiredness, and passing water often are the most common signs.",
    "Is there a cure?",
    "There is none yet, but medicine, diet and exercise keep it in check.",
    "What may I eat?",
];

impl Workbench {
    /// Measures `calls` calls of every function of every hook.
    ///
    /// # Errors
    /// The first fault, or why nothing can be counted.
    pub fn measure(&self, draft: &Draft, calls: usize) -> Result<Vec<Speed>, Unmeasured> {
        let counting = Counting::new(self, draft)?;
        let speed = |revision| self.speed(revision, &counting, calls);
        draft.revisions.iter().map(speed).collect()
    }

    fn speed(
        &self,
        revision: &Arc<Revision>,
        counting: &Counting,
        calls: usize,
    ) -> Result<Speed, Unmeasured> {
        self.meter.take_peak();
        let times = self.samples(revision, calls, Unit::Microseconds)?;
        let memory_peak = self.meter.take_peak();
        let counted = counting.revision(self, revision)?;
        let fuel = self.samples(&counted, calls.min(COUNTED), Unit::Fuel)?;
        let hook = revision.hook;
        let figures = times.into_iter().zip(fuel);
        Ok(Speed {
            hook,
            figures: figures
                .map(|(time, fuel)| figure(hook, time, fuel))
                .collect(),
            memory_peak,
        })
    }

    fn samples(
        &self,
        revision: &Arc<Revision>,
        calls: usize,
        unit: Unit,
    ) -> Result<Vec<Samples>, RunError> {
        let mut run = Run {
            bench: self,
            revision,
            calls,
            unit,
            samples: Vec::new(),
        };
        run.birth()?;
        run.hook(&self.talk())?;
        Ok(run.samples)
    }

    fn talk(&self) -> Vec<Message> {
        let message = |(at, text): (usize, &&str)| Message {
            id: at as u64,
            role: match at % 2 {
                0 => Role::User,
                _ => Role::Assistant,
            },
            text: (**text).into(),
            tokens: self.shared.tokenizer.encode(text, Special::AsText).into(),
            pinned: false,
            exchange: at as u32 / 2,
        };
        TALK.iter().enumerate().map(message).collect()
    }
}

/// One round of calls.
struct Run<'a> {
    bench: &'a Workbench,
    revision: &'a Arc<Revision>,
    calls: usize,
    unit: Unit,
    samples: Vec<Samples>,
}

impl Run<'_> {
    /// Making an instance, which no request waits for as long as warm ones are left.
    fn birth(&mut self) -> Result<(), RunError> {
        let (mut made, mut configured) = (Vec::new(), Vec::new());
        let revision = self.revision;
        let Some(pool) = &revision.pool else {
            return Ok(());
        };
        let template = &pool.template;
        for _ in 0..self.calls.min(1000) {
            let permit = self.bench.crew.permit_patiently()?;
            let start = Instant::now();
            let bare = block_on(template.bare(permit));
            let mut instance = bare.map_err(|e| RunError::of(&e, &template.limits))?;
            made.push(self.cost(start, || instance.fuel()));
            let start = Instant::now();
            block_on(instance.configure(template.config(), template.limits.probe))?;
            configured.push(self.cost(start, || instance.fuel()));
            self.bench.meter.saw(instance.memory_peak());
        }
        self.keep("instantiate", made);
        self.keep("configure", configured);
        Ok(())
    }

    fn cost(&self, start: Instant, burnt: impl FnOnce() -> u64) -> f64 {
        match self.unit {
            Unit::Microseconds => start.elapsed().as_secs_f64() * 1e6,
            Unit::Fuel => burnt() as f64,
        }
    }

    fn keep(&mut self, what: &'static str, values: Vec<f64>) {
        self.samples.push(Samples { what, values });
    }

    fn hook(&mut self, messages: &[Message]) -> Result<(), RunError> {
        let facts = Arc::new(Facts {
            model: "bench".into(),
            now_ms: 0,
            context: 8192,
            reserved_output: 1024,
            streaming: true,
            attributes: Vec::new(),
            tenant: TenantId::default(),
        });
        let asked = self.bench.asked(self.revision, facts.clone());
        let shared = &self.bench.shared;
        let native = || RunError::BadResult("native code serves the hook".into());
        match self.revision.hook {
            Hook::Guard => self.each("check", || {
                block_on(asked.guard(messages))
                    .ok_or_else(native)?
                    .map(drop)
            }),
            Hook::Trim => {
                let low_water = shared.settings.low_water;
                let budget = Budget::new(&facts, &shared.native_layout, low_water, messages)
                    .map_err(|e| RunError::BadResult(e.to_string()))?;
                self.each("trim", || {
                    let trimmed = block_on(asked.trim(messages, budget, None));
                    trimmed.ok_or_else(native)?.map(drop)
                })
            }
            Hook::Prompt => self.each("declare and build", || {
                let built = block_on(asked.declare_and_build(messages));
                built.ok_or_else(native)?.map(drop)
            }),
            Hook::Cache => {
                self.each("decide", || {
                    block_on(asked.decide(messages))
                        .ok_or_else(native)?
                        .map(drop)
                })?;
                let outcome = AnswerOutcome {
                    finish: Finish::Stop,
                    prompt_tokens: 200,
                    output_tokens: 100,
                    elapsed: Duration::from_secs(1),
                };
                self.each("admit", || {
                    let admitted = block_on(asked.admit(messages, TALK[5], outcome));
                    admitted.ok_or_else(native)?.map(drop)
                })
            }
            Hook::Filter => self.filter(&asked),
        }
    }

    /// Each call begins with a warm instance ready.
    fn each(
        &mut self,
        what: &'static str,
        mut call: impl FnMut() -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        let mut costs = Vec::with_capacity(self.calls);
        for _ in 0..self.calls {
            self.warm();
            self.bench.meter.take_fuel();
            let start = Instant::now();
            call()?;
            costs.push(self.cost(start, || self.bench.meter.take_fuel()));
        }
        self.keep(what, costs);
        Ok(())
    }

    /// One filter sees a whole answer, word by word.
    fn filter(&mut self, asked: &super::stages::Asked) -> Result<(), RunError> {
        let [mut opened, mut pushed, mut finished] = [Vec::new(), Vec::new(), Vec::new()];
        while pushed.len() < self.calls || opened.len() < self.calls.min(200) {
            self.warm();
            let start = Instant::now();
            let Some(filter) = block_on(ActiveFilter::open(asked)) else {
                return Ok(());
            };
            let mut filter = filter?;
            opened.push(self.cost(start, || filter.fuel()));
            let mut goes_on = true;
            for word in TALK.iter().flat_map(|text| text.split_inclusive(' ')) {
                let start = Instant::now();
                let step = block_on(filter.push(word))?;
                pushed.push(self.cost(start, || filter.fuel()));
                if let Step::Stop { .. } = step {
                    goes_on = false;
                    break;
                }
            }
            if goes_on {
                let start = Instant::now();
                block_on(filter.finish(Finish::Stop))?;
                finished.push(self.cost(start, || filter.fuel()));
            }
            self.bench.meter.saw(filter.memory_peak());
        }
        for (what, costs) in [("open", opened), ("push", pushed), ("finish", finished)] {
            self.keep(what, costs);
        }
        Ok(())
    }

    fn warm(&self) {
        if let Some(pool) = &self.revision.pool {
            pool.fill();
        }
    }
}

fn figure(hook: Hook, time: Samples, fuel: Samples) -> Figures {
    let (what, calls) = (time.what, time.values.len());
    let [p50_us, p99_us] = quantiles(time.values);
    let [p50, p99] = quantiles(fuel.values);
    Figures {
        hook,
        what,
        calls,
        p50_us,
        p99_us,
        p50_fuel: p50 as u64,
        p99_fuel: p99 as u64,
    }
}

fn quantiles(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [50, 99].map(|share| {
        let at = values.len().saturating_sub(1) * share / 100;
        values.get(at).copied().unwrap_or_default()
    })
}
