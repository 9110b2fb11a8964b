//! Bad input: one clear sentence each, and nothing breaks.

mod configuration;
mod requests;
mod starting;
