//! The gateway as its clients see it: the real binary over real sockets.

mod answers;
mod connections;
mod input;
mod load;
mod swap;
mod traces;
