//! All integration tests, in one binary: one link, shared helpers.

mod support;

mod engine;
mod models;
mod telemetry;
