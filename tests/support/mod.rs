//! What several test modules need.

pub mod otlp;
pub mod redis;
pub mod server;
