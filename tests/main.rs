//! All integration tests, in one binary: one link, shared helpers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod support;

mod cache;
mod engine;
mod gateway;
mod models;
mod operations;
mod policy;
mod sessions;
mod setup;
mod structure;
mod telemetry;
mod texts;
