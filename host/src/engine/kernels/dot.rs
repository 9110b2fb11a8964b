//! The products: one strip of sixteen packed weight rows with up to eight rows of activations.
//!
//! What ggml's kernels lose with few rows is unpacking: these unpack a weight once for all rows, whatever
//! their number, so that one, three and four rows cost one reading of the weights.

use super::pack::Kind;
use super::rows::{GROUP, RowBlock};
use super::{avx2, avx512};

/// The arguments of a kernel: pointers, because the strips lie in ggml's memory.
#[derive(Clone, Copy)]
pub struct Strip {
    /// `blocks` tiles.
    pub tiles: *const u8,
    /// `blocks` times [`GROUP`] row blocks: those of one column block lie together.
    pub rows: *const RowBlock,
    pub blocks: usize,
    /// The result of the first row; sixteen floats are written there.
    pub out: *mut f32,
    /// Floats from one row's result to the next.
    pub stride: usize,
}

/// Multiplies with a fixed number of rows.
///
/// # Safety
/// The pointers of the strip reach as far as its documentation says, and the processor has the
/// instructions of the kernel's [`Set`].
pub type Kernel = unsafe fn(Strip);

/// Kernels of one instruction set, by number of rows from one to [`GROUP`].
pub struct Set {
    pub q4: [Kernel; GROUP],
    pub q6: [Kernel; GROUP],
}

impl Set {
    pub fn of(&self, kind: Kind) -> &[Kernel; GROUP] {
        match kind {
            Kind::Q4K => &self.q4,
            Kind::Q6K => &self.q6,
        }
    }
}

/// The fastest set that the processor has the instructions for.
pub fn best() -> Option<&'static Set> {
    let wide = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni");
    let narrow = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    match (wide, narrow) {
        (true, true) => Some(&avx512::SET),
        (false, true) => Some(&avx2::SET),
        (_, false) => None,
    }
}
