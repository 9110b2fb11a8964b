//! What a policy costs: the times of its calls from warm instances, as a request sees them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use serde::Serialize;

use super::budget::Budget;
use super::fault::RunError;
use super::generation::Revision;
use super::stages::ActiveFilter;
use super::types::{AnswerOutcome, Facts, Hook, Step};
use super::workbench::{Draft, Workbench};
use crate::types::{Finish, Message, Role, Special};

/// Times of one function.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub hook: Hook,
    /// `instantiate`, `configure`, or the function of the hook.
    pub what: &'static str,
    pub calls: usize,
    /// Microseconds.
    pub p50_us: f64,
    pub p99_us: f64,
}

/// All figures of one hook.
#[derive(Clone, Debug, Serialize)]
pub struct Speed {
    pub hook: Hook,
    pub figures: Vec<Figures>,
    /// The most memory that an instance had at the end of a call, in bytes.
    pub memory_peak: usize,
}

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
    /// Times `calls` calls of every function of every hook.
    ///
    /// # Errors
    /// The first fault.
    pub fn measure(&self, draft: &Draft, calls: usize) -> Result<Vec<Speed>, RunError> {
        let speed = |revision| self.speed(revision, calls);
        draft.revisions.iter().map(speed).collect()
    }

    fn speed(&self, revision: &Arc<Revision>, calls: usize) -> Result<Speed, RunError> {
        self.peak.take();
        let mut figures = self.birth(revision, calls)?;
        let mut meter = Meter {
            bench: self,
            revision,
            calls,
            figures: Vec::new(),
        };
        meter.hook(&self.talk())?;
        figures.append(&mut meter.figures);
        Ok(Speed {
            hook: revision.hook,
            figures,
            memory_peak: self.peak.take(),
        })
    }

    /// Making an instance, which no request waits for as long as warm ones are left.
    fn birth(&self, revision: &Revision, calls: usize) -> Result<Vec<Figures>, RunError> {
        let (mut made, mut configured) = (Vec::new(), Vec::new());
        let Some(pool) = &revision.pool else {
            return Ok(Vec::new());
        };
        let template = &pool.template;
        for _ in 0..calls.min(1000) {
            let permit = self.crew.permit_patiently()?;
            let start = Instant::now();
            let bare = block_on(template.bare(permit));
            made.push(start.elapsed());
            let mut instance = bare.map_err(|e| RunError::of(&e))?;
            let start = Instant::now();
            block_on(instance.configure(template.config(), template.limits.probe))?;
            configured.push(start.elapsed());
            self.peak.saw(instance.memory_peak());
        }
        let hook = revision.hook;
        Ok(vec![
            figures(hook, "instantiate", made),
            figures(hook, "configure", configured),
        ])
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

struct Meter<'a> {
    bench: &'a Workbench,
    revision: &'a Arc<Revision>,
    calls: usize,
    figures: Vec<Figures>,
}

impl Meter<'_> {
    fn hook(&mut self, messages: &[Message]) -> Result<(), RunError> {
        let facts = Arc::new(Facts {
            model: "bench".into(),
            now_ms: 0,
            context: 8192,
            reserved_output: 1024,
            streaming: true,
            attributes: Vec::new(),
        });
        let asked = self.bench.asked(self.revision, facts.clone());
        let shared = &self.bench.shared;
        let native = || RunError::BadResult("native code serves the hook".into());
        match self.revision.hook {
            Hook::Guard => self.time("check", || {
                block_on(asked.guard(messages))
                    .ok_or_else(native)?
                    .map(drop)
            }),
            Hook::Trim => {
                let low_water = shared.settings.low_water;
                let budget = Budget::new(&facts, &shared.native_layout, low_water, messages)
                    .map_err(|e| RunError::BadResult(e.to_string()))?;
                self.time("trim", || {
                    let trimmed = block_on(asked.trim(messages, budget, None));
                    trimmed.ok_or_else(native)?.map(drop)
                })
            }
            Hook::Prompt => self.time("declare and build", || {
                block_on(async {
                    let (layout, instance) = asked.layout().await.ok_or_else(native)??;
                    let built = asked.build(messages, &layout, Some(instance)).await;
                    built.ok_or_else(native)?.map(drop)
                })
            }),
            Hook::Cache => {
                self.time("decide", || {
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
                self.time("admit", || {
                    let admitted = block_on(asked.admit(messages, TALK[5], outcome));
                    admitted.ok_or_else(native)?.map(drop)
                })
            }
            Hook::Filter => self.filter(&asked),
        }
    }

    /// Each call begins with a warm instance ready.
    fn time(
        &mut self,
        what: &'static str,
        mut call: impl FnMut() -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        let mut times = Vec::with_capacity(self.calls);
        for _ in 0..self.calls {
            self.warm();
            let start = Instant::now();
            call()?;
            times.push(start.elapsed());
        }
        self.figures.push(figures(self.revision.hook, what, times));
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
            opened.push(start.elapsed());
            let mut filter = filter?;
            let mut goes_on = true;
            for word in TALK.iter().flat_map(|text| text.split_inclusive(' ')) {
                let start = Instant::now();
                let step = block_on(filter.push(word))?;
                pushed.push(start.elapsed());
                if let Step::Stop { .. } = step {
                    goes_on = false;
                    break;
                }
            }
            if goes_on {
                let start = Instant::now();
                block_on(filter.finish(Finish::Stop))?;
                finished.push(start.elapsed());
            }
            self.bench.peak.saw(filter.memory_peak());
        }
        for (what, times) in [("open", opened), ("push", pushed), ("finish", finished)] {
            self.figures.push(figures(Hook::Filter, what, times));
        }
        Ok(())
    }

    fn warm(&self) {
        if let Some(pool) = &self.revision.pool {
            pool.fill();
        }
    }
}

fn figures(hook: Hook, what: &'static str, mut times: Vec<Duration>) -> Figures {
    times.sort_unstable();
    let quantile = |share: usize| {
        let at = times.len().saturating_sub(1) * share / 100;
        times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    Figures {
        hook,
        what,
        calls: times.len(),
        p50_us: quantile(50),
        p99_us: quantile(99),
    }
}
