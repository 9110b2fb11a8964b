//! One request: waits for a slot, is sent to one upstream after the other until one of them says a
//! word, and passes that one's answer on.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use reqwest::Response;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::places::Place;
use super::server::{Trip, plain};
use super::wire::{self, Frame, Lines, Usage};
use super::{Shared, unsupported};
use crate::engine::likely::Waiting;
use crate::engine::text::{Assembler, Piece};
use crate::engine::{EngineError, Event, Job, Outcome};
use crate::trace::{spans, traceresponse};
use crate::types::{Finish, Logprob, SlotPermit, Special};

/// An answer in the making.
struct Answer {
    shared: Arc<Shared>,
    job: Job,
    events: UnboundedSender<Event>,
    place: Place,
    text: Assembler,
    likely: Waiting,
    submitted: Instant,
    started: Instant,
    /// When the first words came.
    first: Option<Instant>,
    prefill: Option<Span>,
    decode: Option<Span>,
    pieces: u32,
    usage: Option<Usage>,
}

/// Why an attempt brought no answer.
enum Failure {
    /// Another upstream may do better: nobody has seen a word.
    Again(String),
    /// It would fail anywhere, or words were seen already.
    Final(EngineError),
}

pub async fn run(
    shared: Arc<Shared>,
    job: Job,
    permit: SlotPermit,
    events: UnboundedSender<Event>,
    cancel: CancellationToken,
) {
    let last = tokio::select! {
        biased;
        () = cancel.cancelled() => Event::Finished(nothing(&job)),
        last = answer(shared, &job, &events) => last,
    };
    // The slot is free by now: only then the permit goes and the client is told.
    let chat = job.span.clone();
    spans::within(&chat, || drop(job));
    drop(permit);
    let _ = events.send(last);
}

/// What a request leaves behind whose client left.
fn nothing(job: &Job) -> Outcome {
    Outcome {
        finish: Finish::Cancelled,
        prompt_tokens: u32::try_from(job.prompt.len()).unwrap_or(u32::MAX),
        cached_tokens: 0,
        output_tokens: 0,
        queued: Duration::ZERO,
        prefill: Duration::ZERO,
        decode: Duration::ZERO,
    }
}

async fn answer(shared: Arc<Shared>, job: &Job, events: &UnboundedSender<Event>) -> Event {
    if let Some(error) = unsupported(&job.sampling, shared.settings.upstream.api) {
        return Event::Failed(error);
    }
    let submitted = Instant::now();
    let queue = spans::queue_wait(&job.span);
    let place = shared
        .places
        .enter(|position| {
            let _ = events.send(Event::Queued { position });
        })
        .await;
    spans::within(&job.span, || drop(queue));
    let prompt = u32::try_from(job.prompt.len()).unwrap_or(u32::MAX);
    place.show(|slot| slot.prompt_tokens = prompt);
    let _ = events.send(Event::Started {
        slot: place.slot,
        cached: 0,
    });
    let mut answer = Answer {
        prefill: Some(spans::prefill(&job.span, place.slot, prompt, 0)),
        text: Assembler::new(job.stop.clone()),
        likely: Waiting::default(),
        shared,
        job: job.clone(),
        events: events.clone(),
        place,
        submitted,
        started: Instant::now(),
        first: None,
        decode: None,
        pieces: 0,
        usage: None,
    };
    match answer.attempts().await {
        Ok(finish) => Event::Finished(answer.outcome(finish)),
        Err(error) => Event::Failed(error),
    }
}

impl Answer {
    async fn attempts(&mut self) -> Result<Finish, EngineError> {
        let mut tried = Vec::new();
        let mut problem = None;
        let most = self.shared.settings.upstream.retries as usize + 1;
        while tried.len() < most {
            let session = self.job.session.as_ref();
            let Some(trip) = self.shared.fleet.choose(session, &tried) else {
                break;
            };
            tried.push(trip.index);
            let name = trip.name();
            match self.attempt(trip).await {
                Ok(finish) => return Ok(finish),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(why)) => problem = Some((name, why)),
            }
        }
        Err(match problem {
            Some((upstream, problem)) => EngineError::Upstream { upstream, problem },
            None => EngineError::NoUpstream,
        })
    }

    async fn attempt(&mut self, mut trip: Trip) -> Result<Finish, Failure> {
        let response = match self.send(&trip).await {
            Ok(response) => response,
            Err(failure) => {
                // What a client asked wrongly is no fault of the upstream's.
                if let Failure::Again(problem) = &failure {
                    trip.failed(problem);
                }
                return Err(failure);
            }
        };
        match self.read(response, &mut trip).await {
            Ok(finish) => Ok(finish),
            Err(problem) => {
                trip.failed(&problem);
                Err(match self.first {
                    None => Failure::Again(problem),
                    Some(_) => Failure::Final(EngineError::Upstream {
                        upstream: trip.name(),
                        problem,
                    }),
                })
            }
        }
    }

    /// The response's head.
    async fn send(&self, trip: &Trip) -> Result<Response, Failure> {
        let upstream = &trip.upstream;
        let asked = &self.shared.settings.upstream.model;
        let model = match asked.is_empty() {
            true => upstream.model().unwrap_or_default(),
            false => asked.clone(),
        };
        let (path, body) = wire::request(&self.shared, &self.job, &model);
        let request = self
            .shared
            .fleet
            .client()
            .post(format!("{}{path}", upstream.url))
            .header("accept", "text/event-stream")
            .json(&body);
        let mut request = upstream.authorised(request);
        if let Some(parent) = traceresponse(&self.job.span) {
            request = request.header("traceparent", parent);
        }
        let limit = self.shared.settings.upstream.first_timeout;
        let response = match timeout(limit, request.send()).await {
            Err(_) => return Err(Failure::Again(format!("no answer within {limit:?}"))),
            Ok(Err(error)) => return Err(Failure::Again(plain(&error))),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let told = response.json().await.map(|body| wire::message(&body));
        let problem = match told {
            Ok(words) => format!("status {}: {words}", status.as_u16()),
            Err(_) => format!("status {}", status.as_u16()),
        };
        // Too many requests, a wrong key or a missing model are that server's own matter.
        let elsewhere =
            status.is_server_error() || [401, 403, 404, 408, 429].contains(&status.as_u16());
        Err(match elsewhere {
            true => Failure::Again(problem),
            false => Failure::Final(EngineError::Upstream {
                upstream: trip.name(),
                problem,
            }),
        })
    }

    /// Passes the answer on until it ends; the error says what is wrong with the upstream.
    async fn read(&mut self, mut response: Response, trip: &mut Trip) -> Result<Finish, String> {
        let own = &self.shared.settings.upstream;
        let (first, idle) = (own.first_timeout, own.idle_timeout);
        let (mut lines, mut finish) = (Lines::default(), None);
        loop {
            let limit = if self.first.is_some() { idle } else { first };
            let bytes = match timeout(limit, response.chunk()).await {
                Ok(Ok(Some(bytes))) => bytes,
                // What counts was said; only the usage may be missing.
                _ if finish.is_some() => break,
                Ok(Ok(None)) => return Err("the answer ended without a reason".into()),
                Ok(Err(error)) => return Err(format!("the answer broke off: {}", plain(&error))),
                Err(_) => return Err(format!("silent for {limit:?}")),
            };
            for data in lines.push(&bytes)? {
                match wire::frame(&data) {
                    Frame::Error(problem) => return Err(format!("it told an error: {problem}")),
                    Frame::Done => {
                        return finish
                            .ok_or_else(|| "the answer ended without a reason".to_owned());
                    }
                    Frame::Piece {
                        text,
                        logprobs,
                        finish: end,
                        usage,
                    } => {
                        self.usage = usage.or(self.usage);
                        finish = end.or(finish);
                        let asked = self.job.sampling.logprobs.is_some();
                        if asked && self.first.is_none() && !text.is_empty() && logprobs.is_empty()
                        {
                            return Err("it tells no log probabilities".into());
                        }
                        let says = !text.is_empty() || asked && !logprobs.is_empty();
                        if says && self.say(&text, logprobs, trip) {
                            // Dropping the response ends the work there.
                            return Ok(Finish::Stop);
                        }
                        if finish.is_some() {
                            trip.succeeded();
                        }
                    }
                }
            }
        }
        finish.ok_or_else(|| "the answer ended without a reason".to_owned())
    }

    /// Passes text on; true when a stop sequence was met.
    fn say(&mut self, text: &str, logprobs: Vec<Logprob>, trip: &mut Trip) -> bool {
        if self.first.is_none() {
            self.first = Some(Instant::now());
            trip.succeeded();
            if let Some(session) = &self.job.session {
                self.shared.fleet.remember(session, trip.index);
            }
            let prefill = self.prefill.take();
            spans::within(&self.job.span, || drop(prefill));
            self.decode = Some(spans::decode(&self.job.span, self.place.slot));
            trip.upstream
                .read
                .fetch_add(self.job.prompt.len() as u64, Relaxed);
        }
        trip.upstream.written.fetch_add(1, Relaxed);
        self.pieces += 1;
        let (pieces, since) = (self.pieces, self.first);
        self.place.show(|slot| {
            slot.state = "decode";
            slot.output_tokens = pieces;
            let seconds = since.map_or(0.0, |since| since.elapsed().as_secs_f32());
            slot.tokens_per_second = (pieces - 1) as f32 / seconds.max(1e-6);
        });
        let (piece, stopped) = self.take_in(text, logprobs);
        self.pass_on(piece);
        if stopped {
            // What is held back belongs to the stop sequence.
            self.text = Assembler::new(Vec::new());
        }
        stopped
    }

    /// Puts the text behind what was said before: token by token where the upstream told the tokens
    /// that it consists of, so that each leaves with its own.
    fn take_in(&mut self, text: &str, logprobs: Vec<Logprob>) -> (Piece, bool) {
        let told = logprobs.iter().flat_map(|one| &one.drawn.bytes);
        if logprobs.is_empty() || !told.copied().eq(text.bytes()) {
            self.likely.push(logprobs);
            return self.text.push(0, text.as_bytes());
        }
        let mut all = Piece::default();
        for one in logprobs {
            let (piece, stopped) = self.text.push(0, &one.drawn.bytes);
            self.likely.push(vec![one]);
            all.text += &piece.text;
            all.tokens.extend(piece.tokens);
            if stopped {
                return (all, true);
            }
        }
        (all, false)
    }

    /// The ids are those of this gateway's own vocabulary.
    fn pass_on(&mut self, piece: Piece) {
        let logprobs = self.likely.take(piece.tokens.len());
        let text = piece.text;
        if text.is_empty() && logprobs.is_empty() {
            return;
        }
        let tokenizer = &self.shared.vocabulary.tokenizer;
        let tokens = tokenizer.encode(&text, Special::AsText);
        let _ = self.events.send(Event::Text {
            text,
            tokens,
            logprobs,
        });
    }

    /// The end: what was held back is said, and the spans are closed.
    fn outcome(mut self, finish: Finish) -> Outcome {
        let rest = std::mem::replace(&mut self.text, Assembler::new(Vec::new())).finish();
        self.pass_on(rest);
        let now = Instant::now();
        let first = self.first.unwrap_or(now);
        let prompt = u32::try_from(self.job.prompt.len()).unwrap_or(u32::MAX);
        let usage = self.usage.unwrap_or(Usage {
            prompt,
            cached: 0,
            output: self.pieces,
        });
        if let Some(decode) = &self.decode {
            spans::decode_done(decode, usage.output, now - first);
        }
        Outcome {
            finish,
            prompt_tokens: usage.prompt,
            cached_tokens: usage.cached,
            output_tokens: usage.output,
            queued: self.started.saturating_duration_since(self.submitted),
            prefill: first.saturating_duration_since(self.started),
            decode: now.saturating_duration_since(first),
        }
    }
}

impl Drop for Answer {
    /// Spans end where their subscriber is known.
    fn drop(&mut self) {
        let spans = (self.prefill.take(), self.decode.take());
        spans::within(&self.job.span, || drop(spans));
    }
}
