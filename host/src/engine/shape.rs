//! A model for measuring: BioMistral-7B's tensor shapes and Q4_K_M types, and so its compute and
//! memory cost, with weights that make greedy text a fixed chain of plain words and then the end.
//!
//! The layers hold random blocks of so small a scale that they hardly move the residual stream:
//! what goes in as a word's embedding comes out as almost the same vector. The output matrix
//! holds, in the row of each word of the chain, the embedding of the word before it. So the
//! largest logit after a word is its successor's, whatever was said before. The chain starts
//! after the `]` that closes `[/INST]`.
//!
//! Everything is written as it is made: memory stays at a few tens of MB for any size.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

mod gguf;
mod tensors;
mod vocab;
mod weights;

use vocab::Vocab;
use weights::Weights;

/// The dimensions that may differ; all others are BioMistral-7B's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Transformer layers; 32 is the real one.
    pub layers: u32,
    /// Words of the greedy answer.
    pub reply: u32,
}

/// What [`make`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// A complete file of this shape was there.
    Kept { bytes: u64 },
    /// `begins`: the first words of every answer.
    Written { bytes: u64, begins: String },
}

#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    #[error(
        "{}: the vocabulary cannot be read; expected tokenizer.model.v1 of the Python package \
         mistral-common (`make bench` fetches it)",
        path.display()
    )]
    Vocab {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: no SentencePiece model", path.display())]
    NotSentencePiece {
        path: PathBuf,
        #[source]
        source: prost::DecodeError,
    },
    #[error("{}: has {found} pieces, expected Mistral's {expected}", path.display())]
    OtherVocab {
        path: PathBuf,
        found: usize,
        expected: usize,
    },
    #[error("the vocabulary has {found} words that can be chained, expected {wanted}")]
    TooFewWords { found: usize, wanted: usize },
    #[error("{}: cannot be written", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Writes the model to `out`, unless a complete one of this shape is there. `progress` hears of
/// bytes written and bytes in all. The file appears under its name only when it is complete.
pub fn make(
    out: &Path,
    vocab: &Path,
    shape: Shape,
    progress: impl FnMut(u64, u64),
) -> Result<Made, ShapeError> {
    let vocab = Vocab::read(vocab)?;
    let chain = vocab.chain(shape.reply as usize)?;
    let tensors = tensors::of(shape.layers);
    let header = gguf::header(&vocab, shape, &tensors);
    let bytes = header.len() as u64 + tensors.iter().map(tensors::Tensor::padded).sum::<u64>();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ShapeError::Write { path, source }
    };
    if is_complete(out, &header, bytes) {
        return Ok(Made::Kept { bytes });
    }
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder).map_err(failed(folder))?;
    }
    let mut partial = out.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let weights = Weights::new(&vocab, &chain);
    write(&partial, &header, &tensors, &weights, bytes, progress).map_err(failed(&partial))?;
    fs::rename(&partial, out).map_err(failed(out))?;
    Ok(Made::Written {
        bytes,
        begins: vocab.text(&chain[..chain.len().min(12)]),
    })
}

/// Writes a model file that holds the vocabulary and no weights, for whoever only tokenises.
pub fn make_vocabulary(out: &Path, vocab: &Path) -> Result<(), ShapeError> {
    let vocab = Vocab::read(vocab)?;
    let shape = Shape {
        layers: 1,
        reply: 0,
    };
    fs::write(out, gguf::header(&vocab, shape, &[])).map_err(|source| ShapeError::Write {
        path: out.to_owned(),
        source,
    })
}

/// The header names vocabulary, tensors and shape: where it and the length agree, the file is
/// what would be written.
fn is_complete(out: &Path, header: &[u8], bytes: u64) -> bool {
    let Ok(mut file) = File::open(out) else {
        return false;
    };
    let mut found = vec![0; header.len()];
    file.metadata().is_ok_and(|meta| meta.len() == bytes)
        && file.read_exact(&mut found).is_ok()
        && found == header
}

fn write(
    path: &Path,
    header: &[u8],
    tensors: &[tensors::Tensor],
    weights: &Weights,
    total: u64,
    mut progress: impl FnMut(u64, u64),
) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(header)?;
    let mut written = header.len() as u64;
    for tensor in tensors {
        weights.write(tensor, &mut |bytes: &[u8]| {
            written += bytes.len() as u64;
            progress(written, total);
            file.write_all(bytes)
        })?;
        let padding = tensor.padded() - tensor.bytes();
        file.write_all(&vec![0; padding as usize])?;
        written += padding;
    }
    file.into_inner()?.sync_all()
}
