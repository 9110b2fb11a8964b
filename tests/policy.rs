//! The policy host with real components, good and bad.

mod authors;
mod cli;
mod companions;
mod contract;
mod faults;
mod folder;
mod forging;
mod golden;
pub mod guest;
mod hooks;
mod order;
mod pending;
mod promotion;
mod prompts;
mod recording;
mod restarts;
mod revisions;
mod shadows;
mod speed;
mod startup;
mod support;
mod templates;
