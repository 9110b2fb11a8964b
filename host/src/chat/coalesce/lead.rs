//! Computes for other hosts too: says what the run says, and goes on while anybody reads.

use std::sync::Arc;

use opentelemetry::trace::SpanContext;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::flight::Log;
use crate::engine::Event;
use crate::metrics::Metrics;
use crate::relay::{End, Lease, Piece, RENEW, Standing};
use crate::types::Finish;

/// A run that others may read.
pub struct Led {
    pub lease: Lease,
    pub log: Arc<Log>,
    /// The span of the inference.
    pub chat: SpanContext,
    /// Cancelled when nobody reads here any more.
    pub left: CancellationToken,
    /// Stops the run when it is dropped.
    pub cancel: DropGuard,
    pub metrics: Arc<Metrics>,
}

impl Led {
    /// Goes on until the run has ended, or nobody reads it anywhere.
    pub async fn fly(mut self) {
        match self.share().await {
            Ok(result) => self.metrics.shared("lead", result),
            Err(failure) => {
                self.metrics.shared("lead", failure);
                // Others compute for themselves when they see the lease gone.
                drop(self.lease);
                self.left.cancelled().await;
            }
        }
        drop(self.cancel);
    }

    /// `told`: the run ended; `left`: nobody reads any more.
    async fn share(&mut self) -> Result<&'static str, &'static str> {
        let leader = Piece::Leader {
            trace: self.chat.trace_id().to_bytes(),
            span: self.chat.span_id().to_bytes(),
        };
        self.lease.say(&[leader]).await?;
        let (mut said, mut alone) = (0, false);
        let first = tokio::time::Instant::now() + RENEW;
        let mut renew = tokio::time::interval_at(first, RENEW);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                events = self.log.from(said) => {
                    said += events.len();
                    let pieces = pieces(&events);
                    if !pieces.is_empty() {
                        self.lease.say(&pieces).await?;
                    }
                    if pieces.last().is_some_and(Piece::is_last) {
                        return Ok("told");
                    }
                }
                () = self.left.cancelled(), if !alone => {
                    alone = true;
                    if self.lease.leave_alone().await? {
                        return Ok("left");
                    }
                }
                _ = renew.tick() => match self.lease.renew().await {
                    Ok(Standing::Lost) => return Err("lost"),
                    Ok(Standing::Read(0)) if alone => {
                        if self.lease.leave_alone().await? {
                            return Ok("left");
                        }
                    }
                    // A renewal that failed is the next one's business.
                    Ok(Standing::Read(_)) | Err(_) => {}
                },
            }
        }
    }
}

/// What others need of these events; no events are the end of a run that went away.
fn pieces(events: &[Arc<Event>]) -> Vec<Piece> {
    if events.is_empty() {
        return vec![Piece::Broken];
    }
    events.iter().filter_map(|event| piece(event)).collect()
}

fn piece(event: &Event) -> Option<Piece> {
    Some(match event {
        Event::Queued { position } => Piece::Queued {
            position: *position as u64,
        },
        Event::Started { .. } => return None,
        Event::Text { text, tokens, .. } => Piece::Text {
            text: text.clone(),
            tokens: tokens.clone(),
        },
        Event::Finished(o) if matches!(o.finish, Finish::Stop | Finish::Length) => {
            Piece::Finished(End {
                finish: o.finish,
                prompt_tokens: o.prompt_tokens,
                cached_tokens: o.cached_tokens,
                output_tokens: o.output_tokens,
                queued: o.queued,
                prefill: o.prefill,
                decode: o.decode,
            })
        }
        Event::Finished(_) | Event::Failed(_) => Piece::Broken,
    })
}
