//! The head of a GGUF file (version 3): magic, counts, metadata, tensor table. The format is
//! described in ggml's docs/gguf.md; all numbers are little-endian.

use super::Shape;
use super::tensors::{ALIGNMENT, EMBEDDING, FEED_FORWARD, HEAD, HEADS, KV_HEADS, Tensor, VOCAB};
use super::vocab::Vocab;

/// `general.file_type`: mostly Q4_K, some Q6_K.
const FILE_TYPE_Q4_K_M: u32 = 15;

/// Mistral's instruction format has no system role: its text goes into the first question.
const CHAT_TEMPLATE: &str = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
    {% set head = messages[0]['content'] + '\\n\\n' %}{% set turns = messages[1:] %}{% else %}\
    {% set head = '' %}{% set turns = messages %}{% endif %}{% for message in turns %}\
    {% if message['role'] == 'user' %}\
    {{ '[INST] ' + (head if loop.first else '') + message['content'] + ' [/INST]' }}\
    {% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}\
    {% endfor %}";

/// A metadata value.
enum Value<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Texts(Vec<&'a str>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
}

/// Everything in front of the weights, padded.
pub fn header(vocab: &Vocab, shape: Shape, tensors: &[Tensor]) -> Vec<u8> {
    let name = format!("biomistral-7b-shape-{}l", shape.layers);
    let metadata = metadata(vocab, shape, &name);
    let mut out = Vec::new();
    out.extend_from_slice(b"GGUF");
    out.extend_from_slice(&3_u32.to_le_bytes());
    count(&mut out, tensors.len());
    count(&mut out, metadata.len());
    for (key, value) in &metadata {
        text(&mut out, key);
        put(&mut out, value);
    }
    let mut offset = 0_u64;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        let dimensions: &[u64] = match tensor.rows {
            1 => &[tensor.columns],
            rows => &[tensor.columns, rows],
        };
        out.extend_from_slice(&(dimensions.len() as u32).to_le_bytes());
        out.extend(
            dimensions
                .iter()
                .flat_map(|dimension| dimension.to_le_bytes()),
        );
        out.extend_from_slice(&tensor.kind.ggml().to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        offset += tensor.padded();
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    out
}

fn metadata<'a>(vocab: &'a Vocab, shape: Shape, name: &'a str) -> Vec<(&'static str, Value<'a>)> {
    use Value::*;
    vec![
        ("general.architecture", Text("llama")),
        ("general.name", Text(name)),
        ("general.file_type", U32(FILE_TYPE_Q4_K_M)),
        ("general.quantization_version", U32(2)),
        ("llama.block_count", U32(shape.layers)),
        ("llama.context_length", U32(32_768)),
        ("llama.embedding_length", U32(EMBEDDING as u32)),
        ("llama.feed_forward_length", U32(FEED_FORWARD as u32)),
        ("llama.attention.head_count", U32(HEADS as u32)),
        ("llama.attention.head_count_kv", U32(KV_HEADS as u32)),
        ("llama.attention.layer_norm_rms_epsilon", F32(1e-5)),
        ("llama.rope.freq_base", F32(10_000.0)),
        ("llama.rope.dimension_count", U32(HEAD as u32)),
        ("llama.vocab_size", U32(VOCAB as u32)),
        ("tokenizer.ggml.model", Text("llama")),
        ("tokenizer.ggml.pre", Text("default")),
        (
            "tokenizer.ggml.tokens",
            Texts(vocab.pieces().map(|piece| piece.text()).collect()),
        ),
        (
            "tokenizer.ggml.scores",
            F32s(vocab.pieces().map(|piece| piece.score()).collect()),
        ),
        (
            "tokenizer.ggml.token_type",
            I32s(vocab.pieces().map(|piece| piece.kind()).collect()),
        ),
        ("tokenizer.ggml.unknown_token_id", U32(0)),
        ("tokenizer.ggml.bos_token_id", U32(1)),
        ("tokenizer.ggml.eos_token_id", U32(2)),
        ("tokenizer.ggml.add_bos_token", Bool(true)),
        ("tokenizer.ggml.add_eos_token", Bool(false)),
        ("tokenizer.chat_template", Text(CHAT_TEMPLATE)),
    ]
}

/// `enum gguf_metadata_value_type` and the value.
fn put(out: &mut Vec<u8>, value: &Value) {
    let mut kind = |number: u32| out.extend_from_slice(&number.to_le_bytes());
    match value {
        Value::U32(number) => {
            kind(4);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::F32(number) => {
            kind(6);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Bool(flag) => {
            kind(7);
            out.push(u8::from(*flag));
        }
        Value::Text(value) => {
            kind(8);
            text(out, value);
        }
        Value::I32s(numbers) => {
            kind(9);
            kind(5);
            count(out, numbers.len());
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        Value::F32s(numbers) => {
            kind(9);
            kind(6);
            count(out, numbers.len());
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        Value::Texts(texts) => {
            kind(9);
            kind(8);
            count(out, texts.len());
            texts.iter().for_each(|value| text(out, value));
        }
    }
}

fn text(out: &mut Vec<u8>, value: &str) {
    count(out, value.len());
    out.extend_from_slice(value.as_bytes());
}

fn count(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&(number as u64).to_le_bytes());
}
