//! The access log: one line per request, when it has ended.

use std::time::Duration;

use tracing::Span;

use super::Outcome;

/// Target of the access lines: `info,stent::access=off` is a log without them.
pub const ACCESS: &str = "stent::access";

/// One request that has ended, as metrics count it and the access log tells it.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    pub method: &'a str,
    /// The route's pattern, never the path that was asked for; empty where there is none.
    pub route: &'static str,
    pub status: u16,
    pub outcome: Outcome,
    /// The error's code, where there was one.
    pub code: Option<&'static str>,
    /// From the request's head to the answer's last byte.
    pub elapsed: Duration,
    /// From the request's head to the first words; `None`: there were none.
    pub ttft: Option<Duration>,
    pub prompt_tokens: u32,
    /// Prompt tokens that needed no computing.
    pub cached_tokens: u32,
    pub output_tokens: u32,
    /// What of `elapsed` was the engine's: queue, prefill and decode. `None`: it was not asked.
    pub engine: Option<Duration>,
    /// Decoding alone.
    pub decode: Option<Duration>,
    /// The policies that served it.
    pub generation: Option<u64>,
    /// Becomes the exemplar, so that a slow bucket leads to its trace.
    pub trace_id: Option<&'a str>,
    /// The client's own name for the request.
    pub request_id: Option<&'a str>,
    /// What balancers and browsers fetch all day: told at level debug.
    pub quiet: bool,
}

impl<'a> Finished<'a> {
    /// A request that no model was asked for.
    pub fn plain(
        method: &'a str,
        route: &'static str,
        status: u16,
        outcome: Outcome,
        elapsed: Duration,
    ) -> Self {
        Self {
            method,
            route,
            status,
            outcome,
            code: None,
            elapsed,
            ttft: None,
            prompt_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            engine: None,
            decode: None,
            generation: None,
            trace_id: None,
            request_id: None,
            quiet: false,
        }
    }

    /// Writes the line, below the request's span: a warning where the server failed, for whoever
    /// debugs where it says nothing.
    pub fn log(&self, span: &Span) {
        let millis = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
        // What did not happen is left out.
        let some = |tokens: u32| (tokens > 0).then_some(tokens);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: ACCESS,
                    parent: span,
                    method = self.method,
                    route = (!self.route.is_empty()).then_some(self.route),
                    status = self.status,
                    outcome = self.outcome.as_str(),
                    code = self.code,
                    elapsed_ms = millis(self.elapsed),
                    ttft_ms = self.ttft.map(millis),
                    prompt_tokens = some(self.prompt_tokens),
                    cached_tokens = some(self.cached_tokens),
                    output_tokens = some(self.output_tokens),
                    generation = self.generation,
                    request_id = self.request_id,
                    trace_id = self.trace_id,
                    "request"
                )
            };
        }
        match self.outcome {
            _ if self.quiet => line!(debug),
            Outcome::Error if self.status >= 500 || self.status == 200 => line!(warn),
            _ => line!(info),
        }
    }
}
