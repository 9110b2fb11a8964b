//! The weights, made as they are written.

#![expect(unsafe_code, reason = "ggml's quantisers take raw pointers")]

use std::collections::HashMap;
use std::io;
use std::num::NonZero;
use std::ptr;
use std::thread;

use fastrand::Rng;
use half::f16;

use super::tensors::{Fill, Kind, Tensor};
use super::vocab::Vocab;

/// Fixes all weights.
const SEED: u64 = 7;

/// Standard deviations. An embedding's product with itself is about 4096 x 0.02² = 1.6, and with
/// the noise of another row some hundredth of that.
const EMBEDDING_SCALE: f32 = 0.02;
const OUTPUT_SCALE: f32 = 0.002;

/// `]` ends the marker after which the model speaks; `</s>` ends the answer.
const SPEAK: &str = "]";
const END: u32 = 2;

/// Bytes of noise that are made at a time, at most, and rows that are quantised at a time.
const NOISE_CHUNK: u64 = 4 << 20;
const ROWS: u64 = 256;

/// Takes the next bytes of a tensor.
pub type Sink<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// Which word follows which.
pub struct Weights {
    /// Successor to predecessor.
    before: HashMap<u32, u32>,
    threads: u64,
}

impl Weights {
    pub fn new(vocab: &Vocab, chain: &[u32]) -> Self {
        let first = vocab.id(SPEAK);
        let from = first.into_iter().chain(chain.iter().copied());
        let to = chain.iter().copied().chain([END]);
        Self {
            before: to.zip(from).collect(),
            threads: thread::available_parallelism().map_or(1, NonZero::get) as u64,
        }
    }

    /// Hands all of the tensor's bytes to `sink`, in order.
    pub fn write(&self, tensor: &Tensor, sink: &mut Sink<'_>) -> io::Result<()> {
        match tensor.fill {
            Fill::Ones => {
                let ones = vec![1_f32; (tensor.rows * tensor.columns) as usize];
                sink(
                    &ones
                        .iter()
                        .flat_map(|one| one.to_le_bytes())
                        .collect::<Vec<u8>>(),
                )
            }
            Fill::Embedding => self.quantised(tensor, &embedding, sink),
            Fill::Output => self.quantised(tensor, &|row, out| self.output(row, out), sink),
            Fill::Noise(gain) => noise(tensor, gain, sink),
        }
    }

    /// Noise, and the embedding of the word before, if any.
    fn output(&self, row: u32, out: &mut [f32]) {
        uniform(&mut rng(1, row), OUTPUT_SCALE, out);
        if let Some(before) = self.before.get(&row) {
            let mut sought = vec![0.0; out.len()];
            embedding(*before, &mut sought);
            out.iter_mut()
                .zip(sought)
                .for_each(|(weight, sought)| *weight += sought);
        }
    }

    /// Makes rows on all cores, a few at a time, and hands them on in order.
    fn quantised(
        &self,
        tensor: &Tensor,
        make: &(dyn Fn(u32, &mut [f32]) + Sync),
        sink: &mut Sink<'_>,
    ) -> io::Result<()> {
        let columns = tensor.columns as usize;
        let part = |start: u64| {
            let end = tensor.rows.min(start + ROWS);
            let mut rows = vec![0.0; columns * end.saturating_sub(start) as usize];
            for (row, out) in (start..end).zip(rows.chunks_exact_mut(columns)) {
                make(row as u32, out);
            }
            quantise(tensor.kind, &rows, columns)
        };
        for start in (0..tensor.rows).step_by((ROWS * self.threads) as usize) {
            let parts = thread::scope(|scope| -> io::Result<Vec<Vec<u8>>> {
                let workers: Vec<_> = (0..self.threads)
                    .map(|at| start + at * ROWS)
                    .map(|start| scope.spawn(move || part(start)))
                    .collect();
                let panicked = |_| io::Error::other("a quantising thread panicked");
                workers
                    .into_iter()
                    .map(|worker| worker.join().map_err(panicked))
                    .collect()
            })?;
            parts.iter().try_for_each(|bytes| sink(bytes))?;
        }
        Ok(())
    }
}

/// Two words' embeddings have next to nothing in common.
fn embedding(row: u32, out: &mut [f32]) {
    uniform(&mut rng(0, row), EMBEDDING_SCALE, out);
}

/// A row of its own for each matrix, so that rows can be made in any order.
fn rng(matrix: u64, row: u32) -> Rng {
    let mut mix = Rng::with_seed(SEED ^ (matrix << 32 | u64::from(row)));
    Rng::with_seed(mix.u64(..))
}

/// Zero mean, this standard deviation.
fn uniform(rng: &mut Rng, deviation: f32, out: &mut [f32]) {
    let most = deviation * 3_f32.sqrt();
    out.fill_with(|| (rng.f32() * 2.0 - 1.0) * most);
}

/// Random blocks with a fixed scale: of zero mean, as the offset of a Q4_K block is set to half
/// its range and the values of a Q6_K block are signed.
fn noise(tensor: &Tensor, gain: f32, sink: &mut Sink<'_>) -> io::Result<()> {
    let block = tensor.kind.block_bytes();
    let name: u64 = tensor
        .name
        .bytes()
        .fold(0, |sum, byte| sum * 31 % 0xFFFF_FFFB + u64::from(byte));
    let mut rng = Rng::with_seed(SEED ^ name);
    let mut left = tensor.bytes();
    while left > 0 {
        let size = left.min(NOISE_CHUNK / block * block);
        let mut bytes = vec![0; size as usize];
        rng.fill(&mut bytes);
        for block in bytes.chunks_exact_mut(block as usize) {
            set_scale(tensor.kind, gain, block);
        }
        sink(&bytes)?;
        left -= size;
    }
    Ok(())
}

/// Overwrites the scales in a block's bytes (`block_q4_K`, `block_q6_K` of ggml-common.h).
fn set_scale(kind: Kind, gain: f32, block: &mut [u8]) {
    let mut put = |at: usize, scale: f32| {
        block[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    };
    match kind {
        Kind::F32 => {}
        Kind::Q4K => {
            put(0, 1e-4 * gain);
            put(2, 1e-4 * gain * 7.5);
        }
        Kind::Q6K => put(208, 1.5e-5 * gain),
    }
}

/// ggml's own quantising: the file is what llama.cpp's tools would write.
fn quantise(kind: Kind, rows: &[f32], columns: usize) -> Vec<u8> {
    let count = rows.len() / columns;
    let mut out = vec![0; rows.len() / 256 * kind.block_bytes() as usize];
    if count == 0 {
        return out;
    }
    // SAFETY: `rows` holds count x columns floats and columns is a multiple of 256; `out` has room
    // for their blocks, as `block_bytes` is ggml's size of one (the assertion compares what was
    // written); the K quants need no importance matrix, for which null is allowed. ggml guards
    // its one-time setup, so that threads may call this side by side.
    let written = unsafe {
        llama_cpp_sys_2::ggml_quantize_chunk(
            kind.ggml(),
            rows.as_ptr(),
            out.as_mut_ptr().cast(),
            0,
            count as i64,
            columns as i64,
            ptr::null(),
        )
    };
    assert_eq!(written, out.len(), "ggml's block size differs from ours");
    out
}
