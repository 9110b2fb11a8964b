//! Writes a llama model of a megabyte with random weights. Its greedy text is nonsense, but depends
//! on every token of its context, so a single wrong cell of the KV cache changes it.

use std::path::{Path, PathBuf};

const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const LAYERS: u64 = 2;
/// unk, begin, end, the 256 bytes, some letters.
const VOCABULARY: u64 = 3 + 256 + 26;

/// How the matrices are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    Float,
    /// Four bits, as the repacked kernels take them.
    Quantised,
    /// Q4_K and Q6_K, as Stent's kernels take them; twice as wide, because a block has 256 columns.
    KQuants,
    /// The values of [`Weights::KQuants`] as floats.
    Exact,
}

impl Weights {
    fn width(self) -> u64 {
        match self {
            Self::Float | Self::Quantised => 128,
            Self::KQuants | Self::Exact => 256,
        }
    }

    /// ggml's number for the type of a tensor.
    fn kind(self, name: &str, dims: usize) -> u32 {
        let six = name.contains("attn_v") || name.contains("ffn_down");
        match self {
            Self::Float => F32,
            _ if !name.starts_with("blk.") || dims != 2 => F32,
            Self::Quantised => Q4_0,
            Self::KQuants | Self::Exact if six => Q6_K,
            Self::KQuants | Self::Exact => Q4_K,
        }
    }
}

const F32: u32 = 0;
const Q4_0: u32 = 2;
const Q4_K: u32 = 12;
const Q6_K: u32 = 14;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Writes `tiny.gguf` into the folder.
pub fn write(folder: &Path, weights: Weights) -> PathBuf {
    let path = folder.join("tiny.gguf");
    std::fs::write(&path, bytes(weights)).unwrap();
    path
}

pub fn bytes(weights: Weights) -> Vec<u8> {
    let width = weights.width();
    let (hidden, kv_width) = (2 * width, width / u64::from(HEADS) * u64::from(KV_HEADS));
    let mut tensors = vec![("token_embd.weight".to_owned(), vec![width, VOCABULARY])];
    for layer in 0..LAYERS {
        let shapes = [
            ("attn_norm", vec![width]),
            ("attn_q", vec![width, width]),
            ("attn_k", vec![width, kv_width]),
            ("attn_v", vec![width, kv_width]),
            ("attn_output", vec![width, width]),
            ("ffn_norm", vec![width]),
            ("ffn_gate", vec![width, hidden]),
            ("ffn_up", vec![width, hidden]),
            ("ffn_down", vec![hidden, width]),
        ];
        tensors.extend(shapes.map(|(name, shape)| (format!("blk.{layer}.{name}.weight"), shape)));
    }
    tensors.push(("output_norm.weight".into(), vec![width]));
    tensors.push(("output.weight".into(), vec![width, VOCABULARY]));

    let mut file = Writer::default();
    file.header(tensors.len() as u64, width as u32);
    let mut data = Vec::new();
    let mut random = Random(42);
    for (name, shape) in &tensors {
        let kind = weights.kind(name, shape.len());
        file.text(name);
        file.0.extend((shape.len() as u32).to_le_bytes());
        shape
            .iter()
            .for_each(|dim| file.0.extend(dim.to_le_bytes()));
        let exact = weights == Weights::Exact;
        file.0.extend(if exact { F32 } else { kind }.to_le_bytes());
        file.0.extend((data.len() as u64).to_le_bytes());
        let elements: u64 = shape.iter().product();
        if shape.len() == 1 {
            (0..elements).for_each(|_| data.extend(1_f32.to_le_bytes()));
        } else if kind != F32 {
            let columns = if kind == Q4_0 { 32 } else { 256 };
            for _ in 0..elements / columns {
                let block = block(kind, &mut random);
                match exact {
                    true => values(kind, &block)
                        .iter()
                        .for_each(|value| data.extend(value.to_le_bytes())),
                    false => data.extend(block),
                }
            }
        } else {
            let element =
                |random: &mut Random| (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
            (0..elements).for_each(|_| data.extend((element(&mut random) * 0.25).to_le_bytes()));
        }
        data.resize(data.len().next_multiple_of(32), 0);
    }
    file.0.resize(file.0.len().next_multiple_of(32), 0);
    file.0.extend(data);
    file.0
}

/// A block of weights between -1/4 and 1/4: scales that are powers of two, random numbers.
fn block(kind: u32, random: &mut Random) -> Vec<u8> {
    let mut words = |count: usize| {
        (0..count)
            .flat_map(|_| random.next().to_le_bytes())
            .collect()
    };
    let (head, quants, tail): (&[u8], Vec<u8>, &[u8]) = match kind {
        // A scale of 2^-5 as f16, then nibbles.
        Q4_0 => (&[0, 0x28], words(2), &[]),
        // 2^-5 for scales and for minima; eight scales of 1 and eight minima of 8, six bits each.
        Q4_K => (
            &[
                0, 0x28, 0, 0x28, 1, 1, 1, 1, 8, 8, 8, 8, 0x81, 0x81, 0x81, 0x81,
            ],
            words(16),
            &[],
        ),
        // Four low bits, two high bits; sixteen scales of 1 and 2^-7 for them.
        _ => (
            &[],
            words(24),
            &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0x20],
        ),
    };
    [head, &quants, tail].concat()
}

/// What a block of Q4_K or Q6_K stands for.
fn values(kind: u32, block: &[u8]) -> Vec<f32> {
    (0..256)
        .map(|column| {
            if kind == Q4_K {
                let byte = block[16 + column / 64 * 32 + column % 32];
                let four = if column % 64 < 32 {
                    byte & 15
                } else {
                    byte >> 4
                };
                return (f32::from(four) - 8.0) / 32.0;
            }
            let (half, part, at) = (column / 128, column % 128 / 32, column % 32);
            let byte = block[half * 64 + part % 2 * 32 + at];
            let low = if part < 2 { byte & 15 } else { byte >> 4 };
            let high = block[128 + half * 32 + at] >> (2 * part) & 3;
            (f32::from(low | high << 4) - 32.0) / 128.0
        })
        .collect()
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn header(&mut self, tensors: u64, width: u32) {
        self.0.extend(b"GGUF");
        self.0.extend(3_u32.to_le_bytes());
        self.0.extend(tensors.to_le_bytes());
        self.0.extend(18_u64.to_le_bytes());
        self.string("general.architecture", "llama");
        self.string("general.name", "tiny");
        self.number("llama.context_length", 4096);
        self.number("llama.embedding_length", width);
        self.number("llama.block_count", LAYERS as u32);
        self.number("llama.feed_forward_length", 2 * width);
        self.number("llama.attention.head_count", HEADS);
        self.number("llama.attention.head_count_kv", KV_HEADS);
        self.number("llama.rope.dimension_count", width / HEADS);
        self.number("llama.vocab_size", VOCABULARY as u32);
        self.key("llama.attention.layer_norm_rms_epsilon", 6);
        self.0.extend(1e-5_f32.to_le_bytes());
        self.string("tokenizer.ggml.model", "llama");
        let mut tokens = vec![
            ("<unk>".to_owned(), 2),
            ("<s>".into(), 3),
            ("</s>".into(), 3),
        ];
        tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 6)));
        tokens.extend((b'a'..=b'z').map(|letter| (char::from(letter).to_string(), 1)));
        self.array("tokenizer.ggml.tokens", 8, tokens.len());
        tokens.iter().for_each(|(text, _)| self.text(text));
        self.array("tokenizer.ggml.scores", 6, tokens.len());
        tokens
            .iter()
            .for_each(|_| self.0.extend(0_f32.to_le_bytes()));
        self.array("tokenizer.ggml.token_type", 5, tokens.len());
        tokens
            .iter()
            .for_each(|(_, kind)| self.0.extend(i32::to_le_bytes(*kind)));
        self.number("tokenizer.ggml.bos_token_id", 1);
        self.number("tokenizer.ggml.eos_token_id", 2);
        self.number("tokenizer.ggml.unknown_token_id", 0);
    }

    fn text(&mut self, text: &str) {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn key(&mut self, key: &str, kind: u32) {
        self.text(key);
        self.0.extend(kind.to_le_bytes());
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        self.text(value);
    }

    fn number(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.0.extend(value.to_le_bytes());
    }

    fn array(&mut self, key: &str, kind: u32, len: usize) {
        self.key(key, 9);
        self.0.extend(kind.to_le_bytes());
        self.0.extend((len as u64).to_le_bytes());
    }
}
