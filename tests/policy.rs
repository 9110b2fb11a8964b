//! The policy host with real components, good and bad.

mod authors;
mod cases;
mod cli;
mod companions;
mod configs;
mod contract;
mod faults;
mod folder;
mod forging;
mod golden;
pub mod guest;
mod hooks;
mod instances;
mod order;
mod patience;
mod pending;
mod plans;
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
