//! The benchmark against a server whose pace is known.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod asking;
mod measuring;
mod mock;
mod stream;
mod table;
