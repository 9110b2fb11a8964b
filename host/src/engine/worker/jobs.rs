//! One job from its submission to its last event: its spans, its text, its permit.

use std::time::Instant;

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::likely::Waiting;
use super::super::sampling::{Sampler, Told};
use super::super::text::{Assembler, Piece};
use super::super::{EngineError, Event, Job, Outcome, SlotStatus};
use super::open::Open;
use crate::trace::spans;
use crate::types::{Finish, Likely, Logprob, SessionKey, SlotPermit, Token, Tokenizer};

/// A job that the worker knows. Every way out sends the last event after the permit is gone.
pub struct Active {
    pub sampler: Sampler,
    text: Assembler,
    ready: Piece,
    likely: Waiting,
    events: mpsc::UnboundedSender<Event>,
    cancel: CancellationToken,
    permit: SlotPermit,
    spans: Open,
    session: Option<String>,
    prompt: u32,
    max_tokens: u32,
    cached: u32,
    output: u32,
    submitted: Instant,
    state: State,
}

/// How far the job is.
enum State {
    Queued {
        told: Option<usize>,
    },
    Prefill {
        slot: usize,
        since: Instant,
    },
    Decode {
        slot: usize,
        started: Instant,
        since: Instant,
    },
}

impl Active {
    pub fn new(
        job: Job,
        permit: SlotPermit,
        events: mpsc::UnboundedSender<Event>,
        cancel: CancellationToken,
        sampler: Sampler,
        submitted: Instant,
    ) -> Self {
        Self {
            sampler,
            text: Assembler::new(job.stop),
            ready: Piece::default(),
            likely: Waiting::default(),
            events,
            cancel,
            permit,
            session: job.session.as_ref().map(digest),
            prompt: job.prompt.len() as u32,
            max_tokens: job.max_tokens,
            cached: 0,
            output: 0,
            submitted,
            state: State::Queued { told: None },
            spans: Open::queued(job.span),
        }
    }

    pub fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    pub fn slot(&self) -> Option<usize> {
        match self.state {
            State::Queued { .. } => None,
            State::Prefill { slot, .. } | State::Decode { slot, .. } => Some(slot),
        }
    }

    /// Where its client listens, for whoever has to tell it in this thread's place.
    pub fn events(&self) -> mpsc::UnboundedSender<Event> {
        self.events.clone()
    }

    /// Its spans, for whoever has to end them in this thread's place.
    pub fn spans(&self) -> Open {
        self.spans.clone()
    }

    /// Tells the place in the queue when it changed.
    pub fn queued(&mut self, position: usize) {
        if let State::Queued { told } = &mut self.state
            && *told != Some(position)
        {
            *told = Some(position);
            let _ = self.events.send(Event::Queued { position });
        }
    }

    /// It has a slot.
    pub fn place(&mut self, slot: usize) {
        self.state = State::Prefill {
            slot,
            since: Instant::now(),
        };
    }

    /// Its prompt is read from the `cached`th token on.
    pub fn started(&mut self, cached: usize) {
        let Some(slot) = self.slot() else { return };
        self.cached = cached as u32;
        self.spans
            .turn(|chat| spans::prefill(chat, slot, self.prompt, self.cached));
        let _ = self.events.send(Event::Started {
            slot,
            cached: self.cached,
        });
    }

    /// Takes in a drawn token; `Some` when the answer is over.
    pub fn drew(&mut self, token: Token, end: bool, tokenizer: &dyn Tokenizer) -> Option<Finish> {
        if let State::Prefill { slot, since } = self.state {
            self.spans.turn(|chat| spans::decode(chat, slot));
            self.state = State::Decode {
                slot,
                started: since,
                since: Instant::now(),
            };
        }
        if end {
            return Some(Finish::Stop);
        }
        self.output += 1;
        if let Some(told) = self.sampler.told() {
            self.likely.push(vec![spelled(&told, tokenizer)]);
        }
        let (piece, stopped) = self.text.push(token, &tokenizer.bytes(token));
        self.ready.text += &piece.text;
        self.ready.tokens.extend(piece.tokens);
        if stopped {
            // What is held back belongs to the stop sequence.
            self.text = Assembler::new(Vec::new());
            return Some(Finish::Stop);
        }
        (self.output >= self.max_tokens).then_some(Finish::Length)
    }

    /// Sends what became ready in this step.
    pub fn flush(&mut self) {
        let Piece { text, tokens } = std::mem::take(&mut self.ready);
        if !text.is_empty() || !tokens.is_empty() {
            let _ = self.events.send(Event::Text {
                text,
                logprobs: self.likely.take(tokens.len()),
                tokens,
            });
        }
    }

    pub fn finish(mut self, finish: Finish) {
        let rest = self.text.finish();
        self.ready.text += &rest.text;
        self.ready.tokens.extend(rest.tokens);
        self.flush();
        let outcome = self.outcome(finish);
        let event = Event::Finished(outcome);
        self.leave(Some(event));
    }

    pub fn fail(self, error: EngineError) {
        self.leave(Some(Event::Failed(error)));
    }

    /// Its client has had its last event from elsewhere.
    pub fn abandon(self) {
        self.leave(None);
    }

    pub fn show(&self, state: &'static str, status: &mut SlotStatus) {
        status.state = state;
        status.session.clone_from(&self.session);
        status.prompt_tokens = self.prompt;
        status.cached_tokens = self.cached;
        status.output_tokens = self.output;
        status.tokens_per_second = self.speed();
    }

    fn speed(&self) -> f32 {
        match self.state {
            // The first token belongs to the prefill.
            State::Decode { since, .. } if self.output > 1 => {
                (self.output - 1) as f32 / since.elapsed().as_secs_f32().max(1e-6)
            }
            _ => 0.0,
        }
    }

    fn outcome(&self, finish: Finish) -> Outcome {
        let now = Instant::now();
        let (begun, first) = match self.state {
            State::Queued { .. } => (now, now),
            State::Prefill { since, .. } => (since, now),
            State::Decode { started, since, .. } => (started, since),
        };
        Outcome {
            finish,
            prompt_tokens: self.prompt,
            cached_tokens: self.cached,
            output_tokens: self.output,
            queued: begun.saturating_duration_since(self.submitted),
            prefill: first.saturating_duration_since(begun),
            decode: now.saturating_duration_since(first),
        }
    }

    /// The spans end before the last event is seen, so that a trace is whole when the answer is.
    fn leave(self, last: Option<Event>) {
        self.spans.end(|stage| {
            if let State::Decode { since, .. } = self.state {
                spans::decode_done(stage, self.output, since.elapsed());
            }
        });
        drop(self.permit);
        if let Some(last) = last {
            let _ = self.events.send(last);
        }
    }
}

/// The tokens as their bytes.
fn spelled(told: &Told, tokenizer: &dyn Tokenizer) -> Logprob {
    let likely = |&(token, logprob): &(Token, f32)| Likely {
        bytes: tokenizer.bytes(token),
        logprob,
    };
    Logprob {
        drawn: likely(&told.drawn),
        top: told.top.iter().map(likely).collect(),
    }
}

/// An empty slot's row of the status page.
pub fn show_idle(status: &mut SlotStatus) {
    *status = SlotStatus {
        slot: status.slot,
        state: "idle",
        session: None,
        prompt_tokens: 0,
        cached_tokens: 0,
        output_tokens: 0,
        tokens_per_second: 0.0,
    };
}

/// First 8 hex digits of a digest of tenant and session.
fn digest(key: &SessionKey) -> String {
    let mut hash = Sha256::new();
    hash.update(key.tenant.as_str());
    hash.update([0]);
    hash.update(key.session.as_str());
    hex::encode(&hash.finalize()[..4])
}
