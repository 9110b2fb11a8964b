//! Where sessions live: the stores, and what becomes of them in trouble.

mod backup;
mod hosts;
mod kills;
mod redis;
mod replacing;
mod stores;
mod writers;
