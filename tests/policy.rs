//! The policy host with real components, good and bad.

mod contract;
mod faults;
mod folder;
pub mod guest;
mod hooks;
mod prompts;
mod revisions;
mod speed;
mod startup;
mod support;
