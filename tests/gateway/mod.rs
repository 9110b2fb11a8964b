//! The gateway as its clients see it: the real binary over real sockets.

mod admin;
mod answers;
mod attributes;
mod caching;
mod clocks;
mod connections;
mod demo;
mod forms;
mod input;
mod load;
mod pages;
mod policies;
mod soak;
mod swap;
mod telling;
mod traces;
mod trees;
