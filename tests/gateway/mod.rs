//! The gateway as its clients see it: the real binary over real sockets.

mod admin;
mod answers;
mod attributes;
mod caching;
mod clocks;
mod connections;
mod demo;
mod departures;
mod forms;
mod input;
mod isolation;
mod keys;
mod load;
mod openapi;
mod overload;
mod pages;
mod policies;
mod resume;
mod soak;
mod stall;
mod swap;
mod telling;
mod tls;
mod traces;
mod trees;
