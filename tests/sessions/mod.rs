//! Where sessions live: the stores, and what becomes of them in trouble.

mod redis;
