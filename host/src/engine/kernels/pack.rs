//! How weights lie in memory: sixteen rows side by side, so that one vector register holds four
//! columns of each and a product of four columns needs no shuffling.
//!
//! A tile is sixteen rows by 256 columns, the width of a k-quant block. All tiles of sixteen rows
//! follow each other, then come those of the next sixteen. Within a tile, "column step k" means the
//! columns 4k to 4k + 3 of a group of 32, for all rows: sixty-four bytes.

/// Rows of a tile: lanes of a 512-bit register of 32-bit sums.
pub const TILE_ROWS: usize = 16;
/// Columns of a tile: what shares one scale of a k-quant.
pub const BLOCK: usize = 256;

/// Sixteen rows of Q4_K. Offsets in bytes:
/// `QUANTS` four pairs of groups, each of eight column steps: the first group in the low four bits,
/// the second in the high ones; `SCALES` eight groups of sixteen; `MINS` four pairs of groups, sixteen
/// times two; `D` and `DMIN` sixteen halves each.
pub mod q4 {
    pub const SOURCE: usize = 144;
    pub const SCALES: usize = 2048;
    pub const MINS: usize = SCALES + 128;
    pub const D: usize = MINS + 128;
    pub const DMIN: usize = D + 32;
    pub const TILE: usize = DMIN + 32;
}

/// Sixteen rows of Q6_K. Offsets in bytes:
/// the low four bits lie as in [`q4`]; `HIGH` has the upper two bits, for each pair of groups four
/// times two column steps, from bit 0 up: step 2j of the first group, of the second, step 2j + 1 of the
/// first, of the second; `SCALES` eight pairs of sixteen columns, sixteen times two; `D` sixteen
/// halves.
pub mod q6 {
    pub const SOURCE: usize = 210;
    pub const HIGH: usize = 2048;
    pub const SCALES: usize = HIGH + 1024;
    pub const D: usize = SCALES + 256;
    pub const TILE: usize = D + 32;
}

/// Packs one tile from sixteen blocks of Q4_K; `block(r)` is row r's.
pub fn q4_tile<'a>(block: impl Fn(usize) -> &'a [u8], tile: &mut [u8]) {
    for row in 0..TILE_ROWS {
        let (head, quants) = block(row).split_at(16);
        for (pair, bytes) in quants.chunks_exact(32).enumerate() {
            for (step, four) in bytes.chunks_exact(4).enumerate() {
                tile[(pair * 8 + step) * 64 + row * 4..][..4].copy_from_slice(four);
            }
        }
        let scales = &head[4..];
        for group in 0..8 {
            let (scale, min) = if group < 4 {
                (scales[group] & 63, scales[group + 4] & 63)
            } else {
                (
                    scales[group + 4] & 15 | scales[group - 4] >> 6 << 4,
                    scales[group + 4] >> 4 | scales[group] >> 6 << 4,
                )
            };
            tile[q4::SCALES + group * 16 + row] = scale;
            tile[q4::MINS + group / 2 * 32 + row * 2 + group % 2] = min;
        }
        tile[q4::D + row * 2..][..2].copy_from_slice(&head[..2]);
        tile[q4::DMIN + row * 2..][..2].copy_from_slice(&head[2..4]);
    }
}

/// Packs one tile from sixteen blocks of Q6_K; `block(r)` is row r's.
///
/// A block has two halves of 128 columns, each in four parts of 32: the first two parts' low bits are
/// the low halves of 64 bytes, those of the last two the high halves, and one byte has the high bits of
/// all four. So two parts are one pair of groups, and four columns of it one shift and mask.
pub fn q6_tile<'a>(block: impl Fn(usize) -> &'a [u8], tile: &mut [u8]) {
    const LOW: u32 = 0x0f0f_0f0f;
    tile[q6::HIGH..q6::SCALES].fill(0);
    for row in 0..TILE_ROWS {
        let (low, rest) = block(row).split_at(128);
        let (high, rest) = rest.split_at(64);
        let (scales, d) = rest.split_at(16);
        for half in 0..2 {
            for step in 0..8 {
                let a = four(low, half * 64 + step * 4);
                let b = four(low, half * 64 + 32 + step * 4);
                let bits = four(high, half * 32 + step * 4);
                let pairs = [a & LOW | (b & LOW) << 4, a >> 4 & LOW | b & !LOW];
                let bits = [bits & LOW, bits >> 4 & LOW];
                for (i, (quants, bits)) in pairs.into_iter().zip(bits).enumerate() {
                    let pair = half * 2 + i;
                    let at = (pair * 8 + step) * 64 + row * 4;
                    tile[at..at + 4].copy_from_slice(&quants.to_le_bytes());
                    let at = q6::HIGH + (pair * 4 + step / 2) * 64 + row * 4;
                    let both = four(tile, at) | bits << (4 * (step % 2));
                    tile[at..at + 4].copy_from_slice(&both.to_le_bytes());
                }
            }
        }
        for (group, &scale) in scales.iter().enumerate() {
            tile[q6::SCALES + group / 2 * 32 + row * 2 + group % 2] = scale;
        }
        tile[q6::D + row * 2..][..2].copy_from_slice(d);
    }
}

/// Four bytes as one number, the first the lowest.
fn four(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// How one k-quant is packed: bytes of a block, bytes of a tile, and what packs a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Q4K,
    Q6K,
}

impl Kind {
    pub fn tile_bytes(self) -> usize {
        match self {
            Self::Q4K => q4::TILE,
            Self::Q6K => q6::TILE,
        }
    }

    fn block_bytes(self) -> usize {
        match self {
            Self::Q4K => q4::SOURCE,
            Self::Q6K => q6::SOURCE,
        }
    }

    /// Bytes of a packed matrix. Q4_K grows by one part in 36, Q6_K not at all.
    pub fn packed_bytes(self, columns: usize, rows: usize) -> usize {
        rows / TILE_ROWS * (columns / BLOCK) * self.tile_bytes()
    }

    /// Packs a whole matrix of `columns` by any multiple of sixteen rows, on all CPUs.
    pub fn pack(self, columns: usize, source: &[u8], packed: &mut [u8]) {
        let blocks = columns / BLOCK;
        let (from, to) = (
            TILE_ROWS * blocks * self.block_bytes(),
            blocks * self.tile_bytes(),
        );
        let strips = source.len() / from;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = strips.div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            for (source, packed) in source
                .chunks(share * from)
                .zip(packed.chunks_mut(share * to))
            {
                scope.spawn(move || {
                    for (source, packed) in
                        source.chunks_exact(from).zip(packed.chunks_exact_mut(to))
                    {
                        self.pack_strip(blocks, source, packed);
                    }
                });
            }
        });
    }

    fn pack_strip(self, blocks: usize, source: &[u8], packed: &mut [u8]) {
        let size = self.block_bytes();
        for (b, tile) in packed.chunks_exact_mut(self.tile_bytes()).enumerate() {
            let block = |row: usize| &source[(row * blocks + b) * size..][..size];
            match self {
                Self::Q4K => q4_tile(block, tile),
                Self::Q6K => q6_tile(block, tile),
            }
        }
    }
}
