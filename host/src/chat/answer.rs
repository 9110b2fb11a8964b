//! Writes an answer: from the engine's events to the parts that the client reads, and what remains of
//! it afterwards.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::coalesce::Passenger;
use super::ending::{Spent, close, summary};
use super::turn::Turn;
use super::{Answer, history};
use crate::engine::{Event, Outcome as Run};
use crate::error::Error;
use crate::policy::{Filter, Lookup, Prompt, Step, Trimmed};
use crate::stream::{self, Head, Part, Parts, Reader, Summary, Undelivered};
use crate::trace::spans::{self, Outcome};
use crate::types::{Finish, Logprob, Token};

/// Answers from a run. A task of its own writes the answer, so that history and cache are done
/// with even if the client closes the connection right after the last word.
pub fn generate(
    turn: Turn,
    lookup: Lookup,
    trimmed: Trimmed,
    prompt: Prompt,
    filter: Filter,
    run: Passenger,
) -> Result<Answer, Error> {
    let head = head(&turn)?;
    let (parts, reader) = channel(&turn);
    let answers = turn.gateway.answers.clone();
    let writer = Writer {
        text: String::new(),
        tokens: Vec::new(),
        first: None,
        cached: 0,
        boarded: Instant::now(),
        filter,
        parts,
        lookup,
        trimmed,
        prompt,
        turn,
    };
    answers.spawn(writer.write(run));
    Ok(Answer {
        head,
        parts: reader,
    })
}

struct Writer {
    turn: Turn,
    lookup: Lookup,
    trimmed: Trimmed,
    prompt: Prompt,
    filter: Filter,
    parts: Parts,
    /// What the client has been sent, and the ids that it came from.
    text: String,
    tokens: Vec<Token>,
    /// When the first text came.
    first: Option<Instant>,
    /// Tokens of the prompt that the run had not to compute.
    cached: u32,
    /// When it joined the run.
    boarded: Instant,
}

/// How the events of a run ended, as far as this client is concerned.
enum End {
    Finished(Run),
    /// The output filter stopped it.
    Filtered,
    Failed(Error),
    Undelivered(Undelivered),
}

impl End {
    fn finish(&self) -> Finish {
        match self {
            Self::Finished(run) => run.finish,
            Self::Filtered => Finish::Filtered,
            Self::Failed(_) => Finish::Error,
            Self::Undelivered(_) => Finish::Cancelled,
        }
    }
}

impl From<Undelivered> for End {
    fn from(why: Undelivered) -> Self {
        Self::Undelivered(why)
    }
}

impl Writer {
    async fn write(mut self, mut run: Passenger) {
        let follows = run.follows();
        let end = self.relay(&mut run).await.unwrap_or_else(|end| end);
        if self.turn.live.capture_content {
            let span = run.span_of_content(&self.turn.ask.span);
            let asked = self.trimmed.of(&self.turn.messages);
            spans::content(&span, &asked, &self.text, end.finish());
        }
        // Leaves the run: the last one to leave stops it.
        drop(run);
        let aboard = self.boarded.elapsed();
        match end {
            End::Finished(outcome) => self.finish(outcome, follows, aboard).await,
            End::Filtered => {
                let first = self.first.map(|first| first.duration_since(self.boarded));
                let prefill = first.unwrap_or(aboard);
                let outcome = Run {
                    finish: Finish::Filtered,
                    prompt_tokens: len(&self.prompt.tokens),
                    cached_tokens: self.cached,
                    output_tokens: len(&self.tokens),
                    queued: Duration::ZERO,
                    prefill,
                    decode: aboard.saturating_sub(prefill),
                };
                self.finish(outcome, follows, aboard).await;
            }
            End::Failed(error) => self.fail(error, aboard).await,
            End::Undelivered(Undelivered::Slow(error)) => self.fail(error, aboard).await,
            End::Undelivered(Undelivered::Gone) => {
                let why = match self.parts.is_stopped() {
                    true => "stopped",
                    false => "client_disconnected",
                };
                spans::event(&self.turn.ask.span, why, &[]);
                let summary = Summary {
                    finish: Finish::Cancelled,
                    ..self.so_far()
                };
                let spent = broken_off(aboard);
                close(&mut self.turn, Outcome::Cancelled, &summary, spent, None);
                // Whoever still reads a kept answer sees that it was stopped.
                let _ = self.parts.send(Part::Done(summary)).await;
            }
        }
    }

    /// Passes the run's events on until it ends or the client leaves.
    async fn relay(&mut self, run: &mut Passenger) -> Result<End, End> {
        if self.trimmed.dropped > 0 {
            self.parts
                .send(Part::Trimmed {
                    dropped: self.trimmed.dropped,
                })
                .await?;
        }
        loop {
            let event = tokio::select! {
                biased;
                () = self.parts.gone() => return Err(Undelivered::Gone.into()),
                () = self.turn.gateway.cut.cancelled() => return Err(End::Failed(cut_off())),
                event = run.next() => event,
            };
            match event.as_deref() {
                Some(Event::Queued { position }) => {
                    self.parts
                        .send(Part::Queued {
                            position: *position + 1,
                        })
                        .await?;
                }
                Some(Event::Started { cached, .. }) => self.cached = *cached,
                Some(Event::Text {
                    text,
                    tokens,
                    logprobs,
                }) => {
                    self.tokens.extend_from_slice(tokens);
                    let step = self.filter.push(text).await;
                    self.emit(step, logprobs).await?;
                }
                Some(Event::Finished(outcome)) => {
                    let rest = self.filter.finish(outcome.finish).await.map(Step::Emit);
                    self.emit(rest, &[]).await?;
                    return Ok(End::Finished(outcome.clone()));
                }
                Some(Event::Failed(error)) => return Err(End::Failed(error.clone().into())),
                None => return Err(End::Failed(crate::engine::EngineError::Stopped.into())),
            }
        }
    }

    async fn emit(
        &mut self,
        step: Result<Step, crate::policy::Denied>,
        logprobs: &[Logprob],
    ) -> Result<(), End> {
        let (text, stop) = match step.map_err(|denied| End::Failed(denied.into()))? {
            Step::Emit(text) => (text, false),
            Step::Stop { emit, .. } => (emit, true),
        };
        if !text.is_empty() {
            if self.first.is_none() {
                self.first = Some(Instant::now());
                spans::event(&self.turn.ask.span, "first_byte", &[]);
            }
            self.text.push_str(&text);
        }
        if !logprobs.is_empty() {
            let logprobs = logprobs.to_vec();
            self.parts.send(Part::Drawn { text, logprobs }).await?;
        } else if !text.is_empty() {
            self.parts.send(Part::Text(text)).await?;
        }
        if stop { Err(End::Filtered) } else { Ok(()) }
    }

    /// History first, then the cache, then the client's last part, then a head start for what
    /// comes next.
    async fn finish(mut self, run: Run, follows: bool, aboard: Duration) {
        let complete = matches!(run.finish, Finish::Stop | Finish::Length | Finish::Filtered);
        if complete {
            let first = self.trimmed.first;
            if let Err(error) =
                history::remember(&mut self.turn, &self.text, &self.tokens, first).await
            {
                return self.fail(error, aboard).await;
            }
            let asked = (&self.lookup, &self.prompt);
            let told = (&run, self.trimmed.dropped);
            let said = (self.text.as_str(), self.tokens.as_slice());
            history::admit_to_cache(&mut self.turn, asked, said, told).await;
        }
        let summary = self.summary(&run, follows);
        let outcome = match (complete, follows) {
            (false, _) => Outcome::Cancelled,
            (true, true) => Outcome::Coalesced,
            (true, false) => Outcome::Ok,
        };
        let spent = Spent {
            // Who joined late was not there for all of it.
            engine: Some((run.queued + run.prefill + run.decode).min(aboard)),
            decode: Some(run.decode),
        };
        close(&mut self.turn, outcome, &summary, spent, None);
        let delivered = self.parts.send(Part::Done(summary)).await.is_ok();
        if complete && delivered {
            self.turn.anchor = self.trimmed.first.or(self.turn.anchor);
            history::foresee(&mut self.turn, &self.prompt.tokens).await;
        }
    }

    async fn fail(mut self, error: Error, aboard: Duration) {
        spans::failed(&self.turn.ask.span, error.class().2);
        let so_far = self.so_far();
        let spent = broken_off(aboard);
        close(&mut self.turn, Outcome::Error, &so_far, spent, Some(&error));
        let _ = self.parts.send(Part::Failed(error)).await;
    }

    /// The summary of an answer that broke off.
    fn so_far(&self) -> Summary {
        let arrived = self.turn.ask.arrived;
        Summary {
            ttft: self.first.map(|first| first.duration_since(arrived)),
            prompt_tokens: len(&self.prompt.tokens),
            cached_tokens: self.cached,
            output_tokens: len(&self.tokens),
            ..summary(&self.turn)
        }
    }

    fn summary(&self, run: &Run, follows: bool) -> Summary {
        let decode = run.decode.as_secs_f64();
        // The first token comes out of the prefill: the time of decoding is that of the others.
        let decoded = f64::from(run.output_tokens.saturating_sub(1));
        Summary {
            finish: run.finish,
            coalesced: follows,
            ttft: self
                .first
                .map(|first| first.duration_since(self.turn.ask.arrived)),
            prompt_tokens: run.prompt_tokens,
            cached_tokens: run.cached_tokens,
            output_tokens: run.output_tokens,
            tokens_per_second: if decode > 0.0 { decoded / decode } else { 0.0 },
            ..summary(&self.turn)
        }
    }
}

pub(super) fn channel(turn: &Turn) -> (Parts, Reader) {
    match turn.ask.keep {
        Some(keep) => stream::kept(keep),
        None => stream::channel(turn.live.reader_timeout),
    }
}

/// The part of a run that had no end of its own.
fn broken_off(aboard: Duration) -> Spent {
    Spent {
        engine: Some(aboard),
        decode: None,
    }
}

/// What a client is told whose answer outlasted the shutdown.
fn cut_off() -> Error {
    Error::Unavailable("the server is shutting down and could not finish this answer".into())
}

pub(super) fn head(turn: &Turn) -> Result<Head, Error> {
    let mut bits = [0_u8; 12];
    getrandom::fill(&mut bits)
        .map_err(|e| Error::Internal(format!("no randomness for an answer's id: {e}")))?;
    let created = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Head {
        id: format!("resp_{}", hex::encode(bits)),
        session: turn.ask.session.clone(),
        model: turn.gateway.engine.model().name.clone(),
        created: created.as_secs(),
    })
}

fn len(tokens: &[Token]) -> u32 {
    u32::try_from(tokens.len()).unwrap_or(u32::MAX)
}
