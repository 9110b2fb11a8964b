//! All integration tests, in one binary: one link, shared helpers.

mod support;

mod engine;
mod gateway;
mod models;
mod policy;
mod telemetry;
