//! Writes a llama model of a megabyte with random weights. Its greedy text is nonsense, but depends
//! on every token of its context, so a single wrong cell of the KV cache changes it.

use std::path::{Path, PathBuf};

const WIDTH: u64 = 128;
const HIDDEN: u64 = 256;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const LAYERS: u64 = 2;
const KV_WIDTH: u64 = WIDTH / HEADS as u64 * KV_HEADS as u64;
/// unk, begin, end, the 256 bytes, some letters.
const VOCABULARY: u64 = 3 + 256 + 26;

/// How the matrices are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    Float,
    /// Four bits, as the repacked kernels take them.
    Quantised,
}

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
    let mut tensors = vec![("token_embd.weight".to_owned(), vec![WIDTH, VOCABULARY])];
    for layer in 0..LAYERS {
        let shapes = [
            ("attn_norm", vec![WIDTH]),
            ("attn_q", vec![WIDTH, WIDTH]),
            ("attn_k", vec![WIDTH, KV_WIDTH]),
            ("attn_v", vec![WIDTH, KV_WIDTH]),
            ("attn_output", vec![WIDTH, WIDTH]),
            ("ffn_norm", vec![WIDTH]),
            ("ffn_gate", vec![WIDTH, HIDDEN]),
            ("ffn_up", vec![WIDTH, HIDDEN]),
            ("ffn_down", vec![HIDDEN, WIDTH]),
        ];
        tensors.extend(shapes.map(|(name, shape)| (format!("blk.{layer}.{name}.weight"), shape)));
    }
    tensors.push(("output_norm.weight".into(), vec![WIDTH]));
    tensors.push(("output.weight".into(), vec![WIDTH, VOCABULARY]));

    let mut file = Writer::default();
    file.header(tensors.len() as u64);
    let mut data = Vec::new();
    let mut random = Random(42);
    for (name, shape) in &tensors {
        let matrix = weights == Weights::Quantised && name.starts_with("blk.") && shape.len() == 2;
        file.text(name);
        file.0.extend((shape.len() as u32).to_le_bytes());
        shape
            .iter()
            .for_each(|dim| file.0.extend(dim.to_le_bytes()));
        file.0.extend(if matrix { 2_u32 } else { 0 }.to_le_bytes());
        file.0.extend((data.len() as u64).to_le_bytes());
        let elements: u64 = shape.iter().product();
        if shape.len() == 1 {
            (0..elements).for_each(|_| data.extend(1_f32.to_le_bytes()));
        } else if matrix {
            for _ in 0..elements / 32 {
                // Blocks of 32: a scale of 2^-5 as f16, then nibbles.
                data.extend(0x2800_u16.to_le_bytes());
                data.extend(random.next().to_le_bytes());
                data.extend(random.next().to_le_bytes());
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

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn header(&mut self, tensors: u64) {
        self.0.extend(b"GGUF");
        self.0.extend(3_u32.to_le_bytes());
        self.0.extend(tensors.to_le_bytes());
        self.0.extend(18_u64.to_le_bytes());
        self.string("general.architecture", "llama");
        self.string("general.name", "tiny");
        self.number("llama.context_length", 4096);
        self.number("llama.embedding_length", WIDTH as u32);
        self.number("llama.block_count", LAYERS as u32);
        self.number("llama.feed_forward_length", HIDDEN as u32);
        self.number("llama.attention.head_count", HEADS);
        self.number("llama.attention.head_count_kv", KV_HEADS);
        self.number("llama.rope.dimension_count", WIDTH as u32 / HEADS);
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
