//! The benchmark against a server whose pace is known.

mod asking;
mod measuring;
mod mock;
mod stream;
mod table;
