//! The other operand: rows of activations, rounded to eight bits with one scale for 256 columns, as
//! ggml's Q8_K has them.

use super::pack::BLOCK;

/// Rows that one pass over the weights multiplies at most. Eight rows need two times eight registers
/// of sums and leave room for the weights.
pub const GROUP: usize = 8;

/// 256 columns of one row. `sums16` are sums of sixteen columns, `sums32` of thirty-two: what the
/// constant parts of the weights are multiplied with.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct RowBlock {
    pub quants: [i8; BLOCK],
    pub sums32: [i16; 8],
    pub sums16: [i16; 16],
    pub scale: f32,
}

impl RowBlock {
    pub const ZERO: Self = Self {
        quants: [0; BLOCK],
        sums32: [0; 8],
        sums16: [0; 16],
        scale: 0.0,
    };

    /// Rounds 256 values. A row with a value that is no number gives results that are none.
    #[target_feature(enable = "avx2,fma")]
    pub fn round(values: &[f32; BLOCK]) -> Self {
        let mut block = Self::ZERO;
        let mut largest = [0_f32; 16];
        for vector in values.as_chunks::<16>().0 {
            for (largest, value) in largest.iter_mut().zip(vector) {
                *largest = largest.max(value.abs());
            }
        }
        let largest = largest.into_iter().fold(0.0, f32::max);
        let factor = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        // `max` passes over what is no number; a sum does not, and times zero it is zero or none.
        block.scale = largest / 127.0 + values.iter().sum::<f32>() * 0.0;
        let (vectors, quants) = (
            values.as_chunks::<16>().0,
            block.quants.as_chunks_mut::<16>().0,
        );
        for ((vector, quants), sum) in vectors.iter().zip(quants).zip(&mut block.sums16) {
            for (quant, value) in quants.iter_mut().zip(vector) {
                *quant = (value * factor).round_ties_even() as i8;
            }
            *sum = quants.iter().map(|&quant| i16::from(quant)).sum();
        }
        for (sum, pair) in block.sums32.iter_mut().zip(block.sums16.as_chunks::<2>().0) {
            *sum = pair[0] + pair[1];
        }
        block
    }
}
