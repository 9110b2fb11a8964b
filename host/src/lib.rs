//! Stent: an LLM inference gateway whose policies are WebAssembly components.
//!
//! The modules stand in the order in which a request meets them.

pub mod config;

pub mod http;

pub mod access;

pub mod api;

pub mod chat;

pub mod session;

pub mod policy;

pub mod cache;

pub mod admission;

pub mod engine;

pub mod stream;

pub mod error;
pub mod metrics;
pub mod models;
pub mod redis;
pub mod relay;
pub mod seal;
pub mod starts;
pub mod tls;
pub mod trace;
pub mod types;

pub mod bench;
pub mod doctor;
pub mod policy_cli;
pub mod status;
