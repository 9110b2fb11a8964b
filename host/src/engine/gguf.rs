//! Reads a GGUF file's header before llama.cpp sees it, so that a missing, corrupt or truncated
//! file is one clear sentence and never an abort.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3.

mod values;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use values::block;

/// Longest string in a header; the longest real ones are chat templates.
const MAX_STRING: u64 = 1 << 24;
/// Most keys, tensors or array elements: a vocabulary has some hundred thousand.
const MAX_COUNT: u64 = 1 << 24;

/// Larger numbers are no versions, but other bytes.
const MAX_VERSION: u32 = 1000;

/// ggml's numbers of two types of weights.
const Q4_K: u32 = 12;
const Q6_K: u32 = 14;

/// What the header tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub name: Option<String>,
    pub architecture: Option<String>,
    /// Context that the model was trained with.
    pub context: Option<u64>,
    /// Bytes of one cell of the KV cache, where the header tells the model's shape.
    pub kv_bytes: Option<u64>,
    /// `tokenizer.chat_template`.
    pub template: Option<String>,
    /// Whether there are weights of Q4_K or Q6_K, which Stent's own kernels take.
    pub k_quants: bool,
    /// sha256 over everything before the weights, and the file's size.
    pub fingerprint: String,
    pub file_bytes: u64,
    /// True for the bundled demo model, which is known by its name.
    pub demo: bool,
}

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("engine.model: cannot open {path}: {source}, expected a GGUF file")]
    Open {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("engine.model: {path} is not a GGUF file: it starts with {found:?}, expected \"GGUF\"")]
    Magic { path: PathBuf, found: String },
    #[error("engine.model: {path} has GGUF version {found}, expected 2 or 3")]
    Version { path: PathBuf, found: u32 },
    #[error("engine.model: {path} is corrupt: {what}")]
    Corrupt { path: PathBuf, what: String },
    #[error("engine.model: {path} is truncated: its {found} bytes end in the middle of its header")]
    Header { path: PathBuf, found: u64 },
    #[error("engine.model: {path} is truncated: {found} bytes, expected at least {expected}")]
    Truncated {
        path: PathBuf,
        found: u64,
        expected: u64,
    },
}

/// Reads and checks the header of the file at `path`.
pub fn read(path: &Path) -> Result<Header, GgufError> {
    let open = |source| GgufError::Open {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(open)?;
    let about = file.metadata().map_err(open)?;
    if about.is_dir() {
        return Err(open(std::io::ErrorKind::IsADirectory.into()));
    }
    let reader = Reader {
        path,
        from: BufReader::with_capacity(1 << 16, file),
        at: 0,
        size: about.len(),
        hash: Sha256::new(),
    };
    reader.header()
}

struct Reader<'a, R> {
    path: &'a Path,
    from: R,
    at: u64,
    size: u64,
    hash: Sha256,
}

/// What a cell of the KV cache is made of.
#[derive(Default)]
struct Shape {
    layers: Option<u64>,
    width: Option<u64>,
    heads: Option<u64>,
    kv_heads: Option<u64>,
    /// Numbers in a head's K and V, where they are not the width over the heads.
    key: Option<u64>,
    value: Option<u64>,
}

impl Shape {
    /// K and V of one token in every layer, two bytes a number.
    fn kv_bytes(&self) -> Option<u64> {
        let head = || self.width?.checked_div(self.heads?);
        let both = self
            .key
            .or_else(head)?
            .checked_add(self.value.or_else(head)?)?;
        let row = both.checked_mul(self.kv_heads.or(self.heads)?)?;
        self.layers?.checked_mul(row)?.checked_mul(2)
    }
}

/// What is looked at of one tensor's entry.
struct Tensor {
    kind: u32,
    /// Where its weights end, counted from the first ones.
    end: u64,
}

/// A value that is looked at, or one that is only skipped.
enum Value {
    Text(String),
    Number(u64),
    Other,
}

impl<R: Read> Reader<'_, R> {
    fn header(mut self) -> Result<Header, GgufError> {
        let magic: [u8; 4] = self.bytes()?;
        if magic != *b"GGUF" {
            let found = String::from_utf8_lossy(&magic).into_owned();
            return Err(GgufError::Magic {
                path: self.path.into(),
                found,
            });
        }
        let version = u32::from_le_bytes(self.bytes()?);
        if version > MAX_VERSION {
            return Err(self.corrupt("no version number follows \"GGUF\"".into()));
        }
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version {
                path: self.path.into(),
                found: version,
            });
        }
        let tensors = self.count("tensors")?;
        let keys = self.count("keys")?;
        if tensors == 0 {
            return Err(self.corrupt("it holds no tensors".into()));
        }
        let mut header = Header {
            name: None,
            architecture: None,
            context: None,
            kv_bytes: None,
            template: None,
            k_quants: false,
            fingerprint: String::new(),
            file_bytes: self.size,
            demo: false,
        };
        let mut alignment = 32;
        let mut shape = Shape::default();
        for _ in 0..keys {
            let key = self.string("a key")?;
            match (key.as_str(), self.value(&key)?) {
                ("general.name", Value::Text(name)) => header.name = Some(name),
                ("general.architecture", Value::Text(name)) => header.architecture = Some(name),
                ("tokenizer.chat_template", Value::Text(text)) => header.template = Some(text),
                ("general.alignment", Value::Number(bytes)) => alignment = bytes,
                (key, Value::Number(number)) => {
                    // What stands before it is the architecture's name.
                    match key.split_once('.').map_or("", |(_, what)| what) {
                        "context_length" => header.context = Some(number),
                        "block_count" => shape.layers = Some(number),
                        "embedding_length" => shape.width = Some(number),
                        "attention.head_count" => shape.heads = Some(number),
                        "attention.head_count_kv" => shape.kv_heads = Some(number),
                        "attention.key_length" => shape.key = Some(number),
                        "attention.value_length" => shape.value = Some(number),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(self.corrupt(format!(
                "general.alignment is {alignment}, expected a power of two"
            )));
        }
        let mut weights = 0;
        for _ in 0..tensors {
            let tensor = self.tensor()?;
            weights = weights.max(tensor.end);
            header.k_quants |= [Q4_K, Q6_K].contains(&tensor.kind);
        }
        let data = self.at.next_multiple_of(alignment);
        let expected = data.saturating_add(weights);
        if expected > self.size {
            return Err(GgufError::Truncated {
                path: self.path.into(),
                found: self.size,
                expected,
            });
        }
        self.hash.update(self.size.to_le_bytes());
        header.kv_bytes = shape.kv_bytes();
        header.demo = header.name.as_deref() == Some("stent-demo");
        header.fingerprint = hex::encode(self.hash.finalize());
        Ok(header)
    }

    fn tensor(&mut self) -> Result<Tensor, GgufError> {
        let name = self.string("a tensor's name")?;
        let dims = u32::from_le_bytes(self.bytes()?);
        if !(1..=4).contains(&dims) {
            return Err(self.corrupt(format!(
                "tensor {name:?} has {dims} dimensions, expected 1 to 4"
            )));
        }
        let mut elements: u64 = 1;
        let mut row = 1;
        for dim in 0..dims {
            let len = u64::from_le_bytes(self.bytes()?);
            if dim == 0 {
                row = len;
            }
            elements = elements
                .checked_mul(len)
                .filter(|&n| n > 0 && n < 1 << 48)
                .ok_or_else(|| self.corrupt(format!("tensor {name:?} has an impossible size")))?;
        }
        let kind = u32::from_le_bytes(self.bytes()?);
        let offset = u64::from_le_bytes(self.bytes()?);
        let (block, bytes) = block(kind)
            .ok_or_else(|| self.corrupt(format!("tensor {name:?} has the unknown type {kind}")))?;
        if row % block != 0 {
            return Err(self.corrupt(format!(
                "tensor {name:?} has rows of {row}, expected a multiple of {block}"
            )));
        }
        let end = offset
            .checked_add(elements / block * bytes)
            .ok_or_else(|| self.corrupt(format!("tensor {name:?} lies at an impossible place")))?;
        Ok(Tensor { kind, end })
    }
}

#[cfg(test)]
mod tests;
