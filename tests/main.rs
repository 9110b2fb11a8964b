//! Integration tests.

mod policy;
