//! Matrix products for few rows: what decodes four chats at once and reads prompts between them.
//!
//! ggml's kernels for x86 unpack 4-bit weights anew for every four rows and 6-bit weights for every row:
//! with four rows most of a step goes into unpacking. These unpack a weight once for up to eight rows.
//! They take the products of a Q4_K_M model (Q4_K and Q6_K) on processors with AVX2, faster with
//! AVX-512 VNNI; everything else stays ggml's. [`pack`] says how the weights lie in memory; the arithmetic
//! is that of ggml's own kernels (8-bit activations, one scale for 256), in another order.
//!
//! A product goes `backend` (ggml asks) → `multiply` (rows are rounded, strips shared out to the `team`) →
//! `avx512` or `avx2`.

#![expect(
    unsafe_code,
    reason = "vector instructions on ggml's memory, called through ggml's C interface"
)]

mod abi;
mod avx2;
mod avx512;
mod backend;
mod buffers;
mod dot;
mod memory;
mod multiply;
mod pack;
mod rows;
mod team;
#[cfg(test)]
mod tests;

use std::sync::Once;

pub use backend::{buffer_type, device};

/// Whether the processor has the instructions.
pub fn possible() -> bool {
    dot::best().is_some()
}

/// Runs `load`, and lets models that it loads on this thread use the kernels, with their weights
/// locked in RAM or not. Only where they are [`possible`]. Also says whether a lock was refused.
pub fn offered<T>(lock: bool, load: impl FnOnce() -> T) -> (T, bool) {
    static ONCE: Once = Once::new();
    ONCE.call_once(backend::register);
    memory::LOCK.set(lock);
    memory::REFUSED.set(false);
    backend::OFFERED.set(true);
    let loaded = load();
    backend::OFFERED.set(false);
    (loaded, memory::REFUSED.get())
}
