//! Reads what another host computes, and computes for itself when that host is lost.

use std::sync::{Arc, Weak};

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::flight::{Flight, Log};
use super::seam::Seam;
use super::start;
use crate::chat::Gateway;
use crate::engine::{EngineError, Event, Job, Outcome};
use crate::relay::{End, Piece, Read, Reader};
use crate::trace::spans;

/// A run of another host, read for those who ask here.
pub struct Followed {
    pub gateway: Arc<Gateway>,
    pub reader: Reader,
    pub log: Arc<Log>,
    /// What its readers share, for those who join later.
    pub flight: Weak<Flight>,
    /// Cancelled when nobody reads here any more.
    pub left: CancellationToken,
    /// The first reader's `coalesce.wait` span, until it is known whom it waits for.
    pub wait: Option<Span>,
    pub own: Own,
}

/// What computing for itself takes.
pub struct Own {
    pub job: Job,
    pub parent: Span,
    pub seed_source: &'static str,
}

/// How the reading ended.
enum Ended {
    /// The run's last words were heard.
    Told,
    /// Nobody here listens any more.
    Left,
}

impl Followed {
    pub async fn fly(mut self) {
        let ended = self.listen().await;
        let result = match &ended {
            Ok(Ended::Told) => "told",
            Ok(Ended::Left) => "left",
            Err(failure) => failure,
        };
        self.gateway.metrics.shared("follow", result);
        let Err(failure) = ended else {
            // The requests' spans must not wait for this.
            drop((self.own, self.wait));
            return self.reader.leave().await;
        };
        spans::store_failure(&self.own.parent, failure);
        tokio::join!(
            self.reader.leave(),
            self.own.compute(&self.gateway, &self.log, &self.left),
        );
    }

    async fn listen(&mut self) -> Result<Ended, &'static str> {
        loop {
            let read = tokio::select! {
                biased;
                () = self.left.cancelled() => return Ok(Ended::Left),
                read = self.reader.read() => read?,
            };
            let pieces = match read {
                Read::Pieces(pieces) => pieces,
                Read::Lost => return Err("lost"),
            };
            for piece in pieces {
                if self.hear(piece)? {
                    self.log.end();
                    return Ok(Ended::Told);
                }
            }
        }
    }

    /// `true` for the last words.
    fn hear(&mut self, piece: Piece) -> Result<bool, &'static str> {
        match piece {
            Piece::Leader { trace, span } => {
                let leader = context(trace, span);
                if let Some(wait) = self.wait.take() {
                    spans::waits_for(&wait, leader.clone());
                }
                if let Some(flight) = self.flight.upgrade() {
                    flight.led_by(leader);
                }
            }
            Piece::Queued { position } => self.log.push(Event::Queued {
                position: usize::try_from(position).unwrap_or(usize::MAX),
            }),
            Piece::Text { text, tokens } => self.log.push(Event::Text {
                text,
                tokens,
                logprobs: Vec::new(),
            }),
            Piece::Finished(end) => {
                self.log.push(Event::Finished(outcome(end)));
                return Ok(true);
            }
            Piece::Broken => return Err("broken"),
        }
        Ok(false)
    }
}

impl Own {
    /// From the beginning; those who read get what they do not have yet.
    async fn compute(self, gateway: &Gateway, log: &Arc<Log>, left: &CancellationToken) {
        let Ok(permit) = start::admit(&gateway.admission, &self.parent) else {
            log.push(Event::Failed(EngineError::Abandoned));
            return log.end();
        };
        let seam = Seam::behind(log.text());
        let told = (&self.parent, self.seed_source);
        let launched = start::launch(gateway, told, (self.job, permit), log, seam);
        left.cancelled().await;
        drop(launched.cancel);
    }
}

fn context(trace: [u8; 16], span: [u8; 8]) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(trace),
        SpanId::from_bytes(span),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    )
}

fn outcome(end: End) -> Outcome {
    Outcome {
        finish: end.finish,
        prompt_tokens: end.prompt_tokens,
        cached_tokens: end.cached_tokens,
        output_tokens: end.output_tokens,
        queued: end.queued,
        prefill: end.prefill,
        decode: end.decode,
    }
}
