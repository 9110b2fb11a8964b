//! The policy host: decisions taken by WebAssembly components, pinned to a generation.
