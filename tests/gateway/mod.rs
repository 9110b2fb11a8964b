//! The gateway as its clients see it: the real binary over real sockets.

mod answers;
mod connections;
mod demo;
mod input;
mod load;
mod soak;
mod swap;
mod telling;
mod traces;
mod trees;
