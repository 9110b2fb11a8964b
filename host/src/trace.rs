//! Traces and logs: one subscriber, set up once, that prints events and exports spans.
//!
//! Spans are made in [`spans`] and nowhere else, under the names of [`semconv`].

mod propagate;
pub mod semconv;
pub mod spans;

pub use propagate::{context, trace_id, traceresponse};
pub use spans::Outcome;
