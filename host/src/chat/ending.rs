//! How a request's end is told: to metrics and the access log once, and to the client.

use std::time::Duration;

use super::history;
use super::turn::Turn;
use crate::access::Place;
use crate::error::Error;
use crate::stream::Summary;
use crate::trace::spans::Outcome;
use crate::trace::{Finished, trace_id};
use crate::types::Finish;

/// What of a request's time was the engine's; the rest is the gateway's own.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    /// From the run's start, or from when it was joined; `None` where there was none.
    pub engine: Option<Duration>,
    /// Between the first token and the last, where the run ended by itself.
    pub decode: Option<Duration>,
}

/// Records how the request ended; once per request.
pub fn close(
    turn: &mut Turn,
    outcome: Outcome,
    summary: &Summary,
    spent: Spent,
    error: Option<&Error>,
) {
    history::forget_too(turn);
    // Whoever reads that the answer is over may ask the next one.
    turn.ask.place = Place::default();
    turn.writer = None;
    let ask = &turn.ask;
    let failed = error.map(Error::class);
    // The head of a stream has left: what fails after it cannot change its status.
    let status = failed.map_or(200, |(status, ..)| match ask.streaming {
        true => 200,
        false => status.as_u16(),
    });
    let finished = Finished {
        code: failed.map(|(_, _, code)| code),
        ttft: summary.ttft,
        prompt_tokens: summary.prompt_tokens,
        cached_tokens: summary.cached_tokens,
        output_tokens: summary.output_tokens,
        engine: spent.engine,
        decode: spent.decode,
        generation: Some(summary.generation),
        trace_id: summary.trace_id.as_deref(),
        request_id: ask.request_id.as_deref(),
        ..Finished::plain("POST", ask.route, status, outcome, turn.elapsed())
    };
    turn.gateway.finished(&ask.span, &finished);
}

/// The summary of an answer that nothing was generated for.
pub fn summary(turn: &Turn) -> Summary {
    Summary {
        finish: Finish::Stop,
        trace_id: trace_id(&turn.ask.span),
        cached: false,
        coalesced: false,
        generation: turn.policies.generation(),
        ttft: None,
        prompt_tokens: 0,
        cached_tokens: 0,
        output_tokens: 0,
        tokens_per_second: 0.0,
    }
}
