use llama_cpp_sys_2 as ggml;

use super::multiply::{Product, Workshop};
use super::pack::{BLOCK, Kind};
use super::rows::RowBlock;
use super::{avx2, dot};

/// A value between -1 and 1 from a running number.
fn value(state: &mut u64) -> f32 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn quantized(kind: ggml::ggml_type, columns: usize, rows: usize) -> (Vec<u8>, Vec<f32>) {
    let mut state = 7;
    let plain: Vec<f32> = (0..columns * rows).map(|_| value(&mut state)).collect();
    // SAFETY: the buffers have the sizes that ggml states for this kind.
    unsafe {
        let bytes = ggml::ggml_row_size(kind, columns as i64) * rows;
        let mut packed = vec![0_u8; bytes];
        ggml::ggml_quantize_chunk(
            kind,
            plain.as_ptr(),
            packed.as_mut_ptr().cast(),
            0,
            rows as i64,
            columns as i64,
            std::ptr::null(),
        );
        let mut exact = vec![0_f32; plain.len()];
        let traits = &*ggml::ggml_get_type_traits(kind);
        traits.to_float.unwrap()(
            packed.as_ptr().cast(),
            exact.as_mut_ptr(),
            plain.len() as i64,
        );
        (packed, exact)
    }
}

/// The products of all numbers of rows against plain arithmetic on the same dequantised weights and
/// rounded rows.
fn products_are_right(kind: Kind, of: ggml::ggml_type) {
    let Some(best) = dot::best() else {
        eprintln!("not checked: the processor has no AVX2");
        return;
    };
    let (columns, outputs) = (3 * BLOCK, 80);
    let (weights, exact) = quantized(of, columns, outputs);
    let mut tiles = vec![0; kind.packed_bytes(columns, outputs)];
    kind.pack(columns, &weights, &mut tiles);
    // Whoever has the wide instructions has the narrow ones.
    for (set, rows, threads) in [(best, 1..=19, 2), (&avx2::SET, 1..=9, 1)]
        .into_iter()
        .flat_map(|(set, rows, threads)| rows.map(move |rows| (set, rows, threads)))
    {
        let mut state = rows as u64;
        let input: Vec<f32> = (0..rows * columns).map(|_| value(&mut state)).collect();
        let mut out = vec![f32::NAN; rows * outputs];
        let mut workshop = Workshop::new(set);
        workshop.threads = threads;
        let product = Product {
            kind,
            tiles: tiles.as_ptr(),
            columns,
            outputs,
            input: input.as_ptr(),
            rows,
            out: out.as_mut_ptr(),
        };
        // SAFETY: the buffers have the stated sizes and the processor was asked.
        unsafe { workshop.multiply(&product) };
        let rounded: Vec<f32> = input.as_chunks().0.iter().flat_map(rounded).collect();
        for (i, &found) in out.iter().enumerate() {
            let weights = &exact[i % outputs * columns..][..columns];
            let input = &rounded[i / outputs * columns..][..columns];
            let right: f32 = weights.iter().zip(input).map(|(w, x)| w * x).sum();
            assert!(
                (found - right).abs() < 1e-3,
                "{kind:?}, {rows} rows, row {} output {}: {found}, expected {right}",
                i / outputs,
                i % outputs
            );
        }
    }
}

/// What a kernel multiplies with instead of `values`.
fn rounded(values: &[f32; BLOCK]) -> [f32; BLOCK] {
    // SAFETY: only called where there is a set of kernels.
    let block = unsafe { RowBlock::round(values) };
    block.quants.map(|quant| f32::from(quant) * block.scale)
}

#[test]
fn rounding_is_off_by_half_a_step_at_most() {
    if dot::best().is_none() {
        return;
    }
    let mut state = 3;
    let values = [0; BLOCK].map(|_| 5.0 * value(&mut state));
    for (exact, found) in values.into_iter().zip(rounded(&values)) {
        assert!(
            (exact - found).abs() <= 5.0 / 254.0 + 1e-5,
            "{exact} {found}"
        );
    }
}

#[test]
fn four_bit_products_are_right() {
    products_are_right(Kind::Q4K, ggml::GGML_TYPE_Q4_K);
}

#[test]
fn six_bit_products_are_right() {
    products_are_right(Kind::Q6K, ggml::GGML_TYPE_Q6_K);
}

#[test]
fn rows_of_zeros_and_of_no_numbers_stay_what_they_are() {
    if dot::best().is_none() {
        return;
    }
    let mut values = [0.0; BLOCK];
    // SAFETY: the processor was asked.
    assert_eq!(unsafe { RowBlock::round(&values) }.scale, 0.0);
    values[7] = f32::NAN;
    // SAFETY: as above.
    assert!(unsafe { RowBlock::round(&values) }.scale.is_nan());
    values[7] = f32::INFINITY;
    // SAFETY: as above.
    assert!(!unsafe { RowBlock::round(&values) }.scale.is_finite());
}
