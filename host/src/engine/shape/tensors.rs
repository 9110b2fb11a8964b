//! Which tensors BioMistral-7B has, how large they are, and how Q4_K_M stores them.

pub const EMBEDDING: u64 = 4096;
pub const FEED_FORWARD: u64 = 14336;
pub const HEADS: u64 = 32;
pub const KV_HEADS: u64 = 8;
pub const HEAD: u64 = EMBEDDING / HEADS;
pub const VOCAB: u64 = 32_000;

/// Tensors start at multiples of this.
pub const ALIGNMENT: u64 = 32;

/// Weights in one block of the K quants.
const BLOCK: u64 = 256;

#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub rows: u64,
    /// Consecutive in memory; GGUF's first dimension.
    pub columns: u64,
    pub kind: Kind,
    pub fill: Fill,
}

/// How the weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    Q4K,
    Q6K,
}

/// What the weights are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    Ones,
    Embedding,
    Output,
    /// Random blocks of this scale.
    Noise(f32),
}

impl Kind {
    /// The number of `enum ggml_type`.
    pub fn ggml(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Q4K => 12,
            Self::Q6K => 14,
        }
    }

    /// Bytes of one block of 256 weights.
    pub fn block_bytes(self) -> u64 {
        match self {
            Self::F32 => BLOCK * 4,
            Self::Q4K => 144,
            Self::Q6K => 210,
        }
    }
}

impl Tensor {
    pub fn bytes(&self) -> u64 {
        self.rows * self.columns / BLOCK * self.kind.block_bytes()
    }

    /// With the gap up to the next tensor.
    pub fn padded(&self) -> u64 {
        self.bytes().next_multiple_of(ALIGNMENT)
    }
}

/// All tensors, in the order of the file.
pub fn of(layers: u32) -> Vec<Tensor> {
    let mut all = vec![matrix(
        "token_embd.weight",
        VOCAB,
        EMBEDDING,
        Kind::Q4K,
        Fill::Embedding,
    )];
    for layer in 0..layers {
        // What goes into the residual stream is kept smaller than what is computed from it.
        let (inner, into_stream) = (Fill::Noise(0.3), Fill::Noise(0.02));
        let kv = KV_HEADS * HEAD;
        let more = if gets_more_bits(layer, layers) {
            Kind::Q6K
        } else {
            Kind::Q4K
        };
        let mut add = |part: &str, rows, columns, kind, fill| {
            let name = format!("blk.{layer}.{part}.weight");
            all.push(matrix(&name, rows, columns, kind, fill));
        };
        add("attn_q", EMBEDDING, EMBEDDING, Kind::Q4K, inner);
        add("attn_k", kv, EMBEDDING, Kind::Q4K, inner);
        add("attn_v", kv, EMBEDDING, more, inner);
        add("attn_output", EMBEDDING, EMBEDDING, Kind::Q4K, into_stream);
        add("ffn_gate", FEED_FORWARD, EMBEDDING, Kind::Q4K, inner);
        add("ffn_up", FEED_FORWARD, EMBEDDING, Kind::Q4K, inner);
        add("ffn_down", EMBEDDING, FEED_FORWARD, more, into_stream);
        add("attn_norm", 1, EMBEDDING, Kind::F32, Fill::Ones);
        add("ffn_norm", 1, EMBEDDING, Kind::F32, Fill::Ones);
    }
    all.push(matrix(
        "output_norm.weight",
        1,
        EMBEDDING,
        Kind::F32,
        Fill::Ones,
    ));
    all.push(matrix(
        "output.weight",
        VOCAB,
        EMBEDDING,
        Kind::Q6K,
        Fill::Output,
    ));
    all
}

fn matrix(name: &str, rows: u64, columns: u64, kind: Kind, fill: Fill) -> Tensor {
    Tensor {
        name: name.to_owned(),
        rows,
        columns,
        kind,
        fill,
    }
}

/// llama.cpp's `use_more_bits`: Q4_K_M gives the first and the last eighth of the layers, and
/// every third between them, six bits for `attn_v` and `ffn_down`.
fn gets_more_bits(layer: u32, layers: u32) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_two_layers_are_as_large_as_biomistral() {
        let bytes: u64 = of(32).iter().map(Tensor::padded).sum();
        // The published Q4_K_M file is 4.37 GB long, of which the header is 0.7 MB.
        assert_eq!(bytes, 4_367_704_064);
    }

    #[test]
    fn more_bits_go_to_the_layers_that_q4_k_m_picks() {
        let picked: Vec<u32> = (0..32).filter(|layer| gets_more_bits(*layer, 32)).collect();
        assert_eq!(
            picked,
            [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
        );
    }
}
