//! 256 bits: a tile in two halves of eight rows. `vpmaddubsw` multiplies pairs of columns into 16 bits,
//! where a whole group of 4-bit products fits (8 times 2 times 15 times 127) and two pairs of 6-bit
//! ones (4 times 63 times 127); then one `vpmaddwd` applies the scale and widens to 32 bits.

#![expect(
    clippy::needless_range_loop,
    reason = "one row number goes through several arrays of registers"
)]

use std::arch::x86_64::*;

use super::dot::{Set, Strip};
use super::pack::{q4, q6};
use super::rows::{GROUP, RowBlock};

pub const SET: Set = Set {
    q4: [
        q4::<1>,
        q4::<2>,
        q4::<3>,
        q4::<4>,
        q4_two::<1>,
        q4_two::<2>,
        q4_two::<3>,
        q4_two::<4>,
    ],
    q6: [
        q6::<1>,
        q6::<2>,
        q6::<3>,
        q6::<4>,
        q6_two::<1>,
        q6_two::<2>,
        q6_two::<3>,
        q6_two::<4>,
    ],
};

/// Sixteen registers hold the sums of four rows, so more are two passes over a strip that is in the
/// cache by then.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q4_two<const N: usize>(strip: Strip) {
    // SAFETY: the caller vouches for four rows and `N` more.
    unsafe {
        q4::<4>(strip);
        q4::<N>(rest(strip));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q6_two<const N: usize>(strip: Strip) {
    // SAFETY: as above.
    unsafe {
        q6::<4>(strip);
        q6::<N>(rest(strip));
    }
}

/// The strip from the fifth row on.
unsafe fn rest(strip: Strip) -> Strip {
    // SAFETY: the caller has more than four rows.
    unsafe {
        Strip {
            rows: strip.rows.add(4),
            out: strip.out.add(4 * strip.stride),
            ..strip
        }
    }
}

/// Four columns of one row, for all lanes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn four(row: *const RowBlock, at: usize) -> __m256i {
    // SAFETY: `at` is below 64, and a row block begins with 256 bytes of columns.
    unsafe { _mm256_set1_epi32(row.cast::<i32>().add(at).read()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q4<const N: usize>(strip: Strip) {
    let zero = _mm256_setzero_si256();
    let low = _mm256_set1_epi8(15);
    // SAFETY: the caller vouches for the strip; all offsets stay within a tile and a row block.
    unsafe {
        for half in 0..2 {
            let mut sums = [_mm256_setzero_ps(); N];
            for block in 0..strip.blocks {
                let tile = strip.tiles.add(block * q4::TILE);
                let rows = strip.rows.add(block * GROUP);
                let mut whole = [zero; N];
                for pair in 0..4 {
                    let mut first = [zero; N];
                    let mut second = [zero; N];
                    for step in 0..8 {
                        let bytes = tile.add((pair * 8 + step) * 64 + half * 32);
                        let bytes = _mm256_loadu_si256(bytes.cast());
                        let a = _mm256_and_si256(bytes, low);
                        let b = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), low);
                        let at = pair * 16 + step;
                        for r in 0..N {
                            let x = _mm256_maddubs_epi16(a, four(rows.add(r), at));
                            let y = _mm256_maddubs_epi16(b, four(rows.add(r), at + 8));
                            first[r] = _mm256_add_epi16(first[r], x);
                            second[r] = _mm256_add_epi16(second[r], y);
                        }
                    }
                    let scales = tile.add(q4::SCALES + pair * 32 + half * 8);
                    let a = twice(_mm256_cvtepu8_epi32(_mm_loadl_epi64(scales.cast())));
                    let b = twice(_mm256_cvtepu8_epi32(_mm_loadl_epi64(scales.add(16).cast())));
                    for r in 0..N {
                        let scaled = _mm256_madd_epi16(first[r], a);
                        let other = _mm256_madd_epi16(second[r], b);
                        whole[r] = _mm256_add_epi32(whole[r], _mm256_add_epi32(scaled, other));
                    }
                }
                let mut least = [zero; N];
                for pair in 0..4 {
                    let mins = tile.add(q4::MINS + pair * 32 + half * 16).cast();
                    let mins = _mm256_cvtepu8_epi16(_mm_loadu_si128(mins));
                    for r in 0..N {
                        let both = (&raw const (*rows.add(r)).sums32).cast::<i32>().add(pair);
                        let part = _mm256_madd_epi16(mins, _mm256_set1_epi32(both.read()));
                        least[r] = _mm256_add_epi32(least[r], part);
                    }
                }
                let d = halves(tile.add(q4::D + half * 16));
                let d_min = halves(tile.add(q4::DMIN + half * 16));
                for r in 0..N {
                    let value = _mm256_mul_ps(_mm256_cvtepi32_ps(whole[r]), d);
                    let value = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(least[r]), d_min, value);
                    let scale = _mm256_set1_ps((*rows.add(r)).scale);
                    sums[r] = _mm256_fmadd_ps(value, scale, sums[r]);
                }
            }
            store(&sums, strip, half);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q6<const N: usize>(strip: Strip) {
    let zero = _mm256_setzero_si256();
    let low = _mm256_set1_epi8(15);
    // SAFETY: the caller vouches for the strip; all offsets stay within a tile and a row block.
    unsafe {
        for half in 0..2 {
            let mut sums = [_mm256_setzero_ps(); N];
            for block in 0..strip.blocks {
                let tile = strip.tiles.add(block * q6::TILE);
                let rows = strip.rows.add(block * GROUP);
                let mut whole = [zero; N];
                let mut least = [zero; N];
                for pair in 0..8 {
                    let scales = tile.add(q6::SCALES + pair * 32 + half * 16).cast();
                    let scales = _mm256_cvtepi8_epi16(_mm_loadu_si128(scales));
                    for r in 0..N {
                        let both = (&raw const (*rows.add(r)).sums16).cast::<i32>().add(pair);
                        let part = _mm256_madd_epi16(scales, _mm256_set1_epi32(both.read()));
                        least[r] = _mm256_add_epi32(least[r], part);
                    }
                }
                // Sixteen columns, which are four steps, share a scale.
                for part in 0..8 {
                    let scales = tile.add(q6::SCALES + part / 2 * 64 + half * 16);
                    let a = one_of(scales, part % 2);
                    let b = one_of(scales.add(32), part % 2);
                    for two in 0..2 {
                        let step = part * 4 + two * 2;
                        let at = part / 2 * 16 + part % 2 * 4 + two * 2;
                        let bits = tile.add(q6::HIGH + step * 32 + half * 32);
                        let bits = _mm256_loadu_si256(bits.cast());
                        let bytes = tile.add(step * 64 + half * 32);
                        let next = _mm256_loadu_si256(bytes.add(64).cast());
                        let bytes = _mm256_loadu_si256(bytes.cast());
                        let first = [
                            merge(bytes, low, _mm256_slli_epi16::<4>(bits)),
                            merge(next, low, bits),
                        ];
                        let second = [
                            merge(
                                _mm256_srli_epi16::<4>(bytes),
                                low,
                                _mm256_slli_epi16::<2>(bits),
                            ),
                            merge(
                                _mm256_srli_epi16::<4>(next),
                                low,
                                _mm256_srli_epi16::<2>(bits),
                            ),
                        ];
                        for r in 0..N {
                            let row = rows.add(r);
                            let x = _mm256_add_epi16(
                                _mm256_maddubs_epi16(first[0], four(row, at)),
                                _mm256_maddubs_epi16(first[1], four(row, at + 1)),
                            );
                            let y = _mm256_add_epi16(
                                _mm256_maddubs_epi16(second[0], four(row, at + 8)),
                                _mm256_maddubs_epi16(second[1], four(row, at + 9)),
                            );
                            let scaled = _mm256_madd_epi16(x, a);
                            let other = _mm256_madd_epi16(y, b);
                            whole[r] = _mm256_add_epi32(whole[r], _mm256_add_epi32(scaled, other));
                        }
                    }
                }
                let d = halves(tile.add(q6::D + half * 16));
                for r in 0..N {
                    // Stored weights are 32 too large, so that they have no sign.
                    let exact = _mm256_sub_epi32(whole[r], _mm256_slli_epi32::<5>(least[r]));
                    let value = _mm256_mul_ps(_mm256_cvtepi32_ps(exact), d);
                    let scale = _mm256_set1_ps((*rows.add(r)).scale);
                    sums[r] = _mm256_fmadd_ps(value, scale, sums[r]);
                }
            }
            store(&sums, strip, half);
        }
    }
}

/// A small number in both halves of each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn twice(scales: __m256i) -> __m256i {
    _mm256_or_si256(scales, _mm256_slli_epi32::<16>(scales))
}

/// The first or the second of eight pairs of signed scales, in both halves of each lane.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn one_of(pairs: *const u8, second: usize) -> __m256i {
    // SAFETY: the caller has sixteen bytes there.
    let pairs = unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(pairs.cast())) };
    let down = _mm_cvtsi32_si128(second as i32 * 16);
    let one = _mm256_and_si256(_mm256_srl_epi32(pairs, down), _mm256_set1_epi32(0xffff));
    twice(one)
}

/// The low four bits of each byte from `bytes`, the next two from `bits`.
#[inline]
#[target_feature(enable = "avx2")]
fn merge(bytes: __m256i, low: __m256i, bits: __m256i) -> __m256i {
    let bits = _mm256_and_si256(bits, _mm256_set1_epi8(0x30));
    _mm256_or_si256(_mm256_and_si256(bytes, low), bits)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn halves(at: *const u8) -> __m256 {
    // SAFETY: the caller has sixteen bytes there.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store<const N: usize>(sums: &[__m256; N], strip: Strip, half: usize) {
    for (r, &sum) in sums.iter().enumerate() {
        // SAFETY: the caller vouches for `N` results of sixteen floats, `stride` apart.
        unsafe { _mm256_storeu_ps(strip.out.add(r * strip.stride + half * 8), sum) };
    }
}
