//! 512 bits: sixteen rows at once. `vpdpbusd` multiplies four columns of each, unsigned weights with
//! signed activations, and adds them to sixteen sums; a group's scale is applied once in eight of these.

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
        q4::<1>, q4::<2>, q4::<3>, q4::<4>, q4::<5>, q4::<6>, q4::<7>, q4::<8>,
    ],
    q6: [
        q6::<1>, q6::<2>, q6::<3>, q6::<4>, q6::<5>, q6::<6>, q6::<7>, q6::<8>,
    ],
};

/// Four columns of one row, for all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn four(row: *const RowBlock, at: usize) -> __m512i {
    // SAFETY: `at` is below 64, and a row block begins with 256 bytes of columns.
    unsafe { _mm512_set1_epi32(row.cast::<i32>().add(at).read()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn q4<const N: usize>(strip: Strip) {
    let zero = _mm512_setzero_si512();
    let low = _mm512_set1_epi8(15);
    let mut sums = [_mm512_setzero_ps(); N];
    // SAFETY: the caller vouches for the strip; all offsets stay within a tile and a row block.
    unsafe {
        for block in 0..strip.blocks {
            let tile = strip.tiles.add(block * q4::TILE);
            let rows = strip.rows.add(block * GROUP);
            let mut whole = [zero; N];
            for pair in 0..4 {
                let mut first = [zero; N];
                let mut second = [zero; N];
                for step in 0..8 {
                    let bytes = _mm512_loadu_si512(tile.add((pair * 8 + step) * 64).cast());
                    let a = _mm512_and_si512(bytes, low);
                    let b = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low);
                    for r in 0..N {
                        let at = pair * 16 + step;
                        first[r] = _mm512_dpbusd_epi32(first[r], a, four(rows.add(r), at));
                        second[r] = _mm512_dpbusd_epi32(second[r], b, four(rows.add(r), at + 8));
                    }
                }
                let scales = tile.add(q4::SCALES + pair * 32).cast::<__m128i>();
                let a = _mm512_cvtepu8_epi32(_mm_loadu_si128(scales));
                let b = _mm512_cvtepu8_epi32(_mm_loadu_si128(scales.add(1)));
                for r in 0..N {
                    let scaled = _mm512_mullo_epi32(first[r], a);
                    let other = _mm512_mullo_epi32(second[r], b);
                    whole[r] = _mm512_add_epi32(whole[r], _mm512_add_epi32(scaled, other));
                }
            }
            let mut least = [zero; N];
            for pair in 0..4 {
                let mins = tile.add(q4::MINS + pair * 32).cast::<__m256i>();
                let mins = _mm512_cvtepu8_epi16(_mm256_loadu_si256(mins));
                for r in 0..N {
                    let both = (&raw const (*rows.add(r)).sums32).cast::<i32>().add(pair);
                    least[r] = _mm512_dpwssd_epi32(least[r], mins, _mm512_set1_epi32(both.read()));
                }
            }
            let d = halves(tile.add(q4::D));
            let d_min = halves(tile.add(q4::DMIN));
            for r in 0..N {
                let value = _mm512_mul_ps(_mm512_cvtepi32_ps(whole[r]), d);
                let value = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(least[r]), d_min, value);
                let scale = _mm512_set1_ps((*rows.add(r)).scale);
                sums[r] = _mm512_fmadd_ps(value, scale, sums[r]);
            }
        }
        store(&sums, strip);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn q6<const N: usize>(strip: Strip) {
    let zero = _mm512_setzero_si512();
    let low = _mm512_set1_epi8(15);
    let mut sums = [_mm512_setzero_ps(); N];
    // SAFETY: the caller vouches for the strip; all offsets stay within a tile and a row block.
    unsafe {
        for block in 0..strip.blocks {
            let tile = strip.tiles.add(block * q6::TILE);
            let rows = strip.rows.add(block * GROUP);
            let mut whole = [zero; N];
            let mut least = [zero; N];
            for pair in 0..8 {
                let scales = tile.add(q6::SCALES + pair * 32).cast::<__m256i>();
                let scales = _mm512_cvtepi8_epi16(_mm256_loadu_si256(scales));
                for r in 0..N {
                    let both = (&raw const (*rows.add(r)).sums16).cast::<i32>().add(pair);
                    least[r] =
                        _mm512_dpwssd_epi32(least[r], scales, _mm512_set1_epi32(both.read()));
                }
            }
            // Sixteen columns, which are four steps, share a scale.
            for part in 0..8 {
                let mut first = [zero; N];
                let mut second = [zero; N];
                for two in 0..2 {
                    let step = part * 4 + two * 2;
                    let at = part / 2 * 16 + part % 2 * 4 + two * 2;
                    for ahead in [q6::HIGH + step * 32, step * 64, step * 64 + 64] {
                        // After the last tile the address is nobody's, which a prefetch may be told.
                        let next = tile.wrapping_add(q6::TILE + ahead);
                        _mm_prefetch::<_MM_HINT_T0>(next.cast());
                    }
                    let bits = _mm512_loadu_si512(tile.add(q6::HIGH + step * 32).cast());
                    let bytes = _mm512_loadu_si512(tile.add(step * 64).cast());
                    let other = _mm512_srli_epi16::<4>(bytes);
                    let a = merge(bytes, low, _mm512_slli_epi16::<4>(bits));
                    let b = merge(other, low, _mm512_slli_epi16::<2>(bits));
                    for r in 0..N {
                        first[r] = _mm512_dpbusd_epi32(first[r], a, four(rows.add(r), at));
                        second[r] = _mm512_dpbusd_epi32(second[r], b, four(rows.add(r), at + 8));
                    }
                    let bytes = _mm512_loadu_si512(tile.add((step + 1) * 64).cast());
                    let other = _mm512_srli_epi16::<4>(bytes);
                    let a = merge(bytes, low, bits);
                    let b = merge(other, low, _mm512_srli_epi16::<2>(bits));
                    for r in 0..N {
                        first[r] = _mm512_dpbusd_epi32(first[r], a, four(rows.add(r), at + 1));
                        second[r] = _mm512_dpbusd_epi32(second[r], b, four(rows.add(r), at + 9));
                    }
                }
                // The even one of two scales is moved up, then both keep their sign on the way down.
                let up = _mm_cvtsi32_si128((1 - part as i32 % 2) * 16);
                let scales = tile.add(q6::SCALES + part / 2 * 64).cast::<__m256i>();
                let a = _mm512_cvtepi8_epi16(_mm256_loadu_si256(scales));
                let b = _mm512_cvtepi8_epi16(_mm256_loadu_si256(scales.add(1)));
                let a = _mm512_srai_epi32::<16>(_mm512_sll_epi32(a, up));
                let b = _mm512_srai_epi32::<16>(_mm512_sll_epi32(b, up));
                for r in 0..N {
                    let scaled = _mm512_mullo_epi32(first[r], a);
                    let other = _mm512_mullo_epi32(second[r], b);
                    whole[r] = _mm512_add_epi32(whole[r], _mm512_add_epi32(scaled, other));
                }
            }
            let d = halves(tile.add(q6::D));
            for r in 0..N {
                // Stored weights are 32 too large, so that they have no sign.
                let exact = _mm512_sub_epi32(whole[r], _mm512_slli_epi32::<5>(least[r]));
                let value = _mm512_mul_ps(_mm512_cvtepi32_ps(exact), d);
                let scale = _mm512_set1_ps((*rows.add(r)).scale);
                sums[r] = _mm512_fmadd_ps(value, scale, sums[r]);
            }
        }
        store(&sums, strip);
    }
}

/// The low four bits of each byte from `bytes`, the next two from `bits`.
#[inline]
#[target_feature(enable = "avx512f")]
fn merge(bytes: __m512i, low: __m512i, bits: __m512i) -> __m512i {
    let bits = _mm512_and_si512(bits, _mm512_set1_epi8(0x30));
    // (bytes & low) | bits
    _mm512_ternarylogic_epi64::<0xEA>(bytes, low, bits)
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn halves(at: *const u8) -> __m512 {
    // SAFETY: the caller has 32 bytes there.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const N: usize>(sums: &[__m512; N], strip: Strip) {
    for (r, &sum) in sums.iter().enumerate() {
        // SAFETY: the caller vouches for `N` results of sixteen floats, `stride` apart.
        unsafe { _mm512_storeu_ps(strip.out.add(r * strip.stride), sum) };
    }
}
