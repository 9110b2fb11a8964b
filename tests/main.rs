//! All integration tests: one binary, a module for every area.

mod engine;
