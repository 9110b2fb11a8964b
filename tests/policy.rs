//! The policy host with real components, good and bad.

mod faults;
mod folder;
mod forging;
mod prompts;
mod revisions;
mod speed;
mod support;
