//! One product: the rows are rounded, then every thread takes strips of sixteen outputs.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::dot::{Set, Strip};
use super::pack::{BLOCK, Kind, TILE_ROWS};
use super::rows::{GROUP, RowBlock};
use super::team;

/// Strips that a thread takes at once: few, because a thread of a shared machine may be late.
const TURN: usize = 8;

/// `out[row][output] = sum over columns of weights[output][column] * input[row][column]`
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub kind: Kind,
    /// Packed weights: `outputs` times `columns`.
    pub tiles: *const u8,
    pub columns: usize,
    pub outputs: usize,
    /// `rows` times `columns` floats.
    pub input: *const f32,
    pub rows: usize,
    /// `rows` times `outputs` floats.
    pub out: *mut f32,
}

// SAFETY: the threads of a team read the inputs together and write different parts of the output.
unsafe impl Sync for Product {}

/// What one context keeps from product to product.
pub struct Workshop {
    pub threads: usize,
    set: &'static Set,
    rounded: Vec<RowBlock>,
}

/// The rounded rows while the team fills them, each thread its own.
struct Filling(*mut RowBlock);
// SAFETY: the threads write to different elements, and read after all have met.
unsafe impl Sync for Filling {}

impl Workshop {
    pub fn new(set: &'static Set) -> Self {
        Self {
            threads: 1,
            set,
            rounded: Vec::new(),
        }
    }

    /// # Safety
    /// The pointers of `product` reach as far as its documentation says, nobody else uses its output
    /// meanwhile, and the processor has the set's instructions.
    pub unsafe fn multiply(&mut self, product: &Product) {
        let Product {
            kind,
            columns,
            outputs,
            rows,
            ..
        } = *product;
        let blocks = columns / BLOCK;
        let groups = rows.div_ceil(GROUP);
        let wanted = groups * GROUP * blocks;
        if self.rounded.len() < wanted {
            self.rounded.resize(wanted, RowBlock::ZERO);
        }
        let filling = Filling(self.rounded.as_mut_ptr());
        let (strips, next) = (outputs / TILE_ROWS, AtomicUsize::new(0));
        let kernels = self.set.of(kind);
        team::run(self.threads, &|place: team::Place| {
            let filling = &filling;
            // SAFETY: the caller vouches for the product; each row block is written by one thread
            // before the meeting and only read after it; each strip is taken once.
            unsafe {
                for at in place.share(rows * blocks) {
                    let (row, block) = (at / blocks, at % blocks);
                    let values = product.input.add(row * columns + block * BLOCK).cast();
                    let place = (row / GROUP * blocks + block) * GROUP + row % GROUP;
                    filling.0.add(place).write(RowBlock::round(&*values));
                }
                place.meet();
                loop {
                    let first = next.fetch_add(TURN, Relaxed);
                    if first >= strips {
                        break;
                    }
                    for strip in first..(first + TURN).min(strips) {
                        for group in 0..groups {
                            let count = (rows - group * GROUP).min(GROUP);
                            let out = product.out.add(group * GROUP * outputs + strip * TILE_ROWS);
                            kernels[count - 1](Strip {
                                tiles: product.tiles.add(strip * blocks * kind.tile_bytes()),
                                rows: filling.0.add(group * GROUP * blocks),
                                blocks,
                                out,
                                stride: outputs,
                            });
                        }
                    }
                }
            }
        });
    }
}
