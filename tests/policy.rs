//! The policy host with real components, good and bad.

mod cli;
mod faults;
mod folder;
mod forging;
mod golden;
mod prompts;
mod recording;
mod revisions;
mod speed;
mod support;
mod templates;
