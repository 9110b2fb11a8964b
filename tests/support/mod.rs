//! What several test modules need.

pub mod otlp;
pub mod server;
