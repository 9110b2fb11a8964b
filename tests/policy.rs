//! The policy host with real components, good and bad.

mod cli;
mod contract;
mod faults;
mod folder;
mod forging;
mod golden;
pub mod guest;
mod hooks;
mod prompts;
mod recording;
mod revisions;
mod speed;
mod startup;
mod support;
mod templates;
