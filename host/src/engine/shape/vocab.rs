//! Mistral's vocabulary, read from its SentencePiece file, and the words that are chained.

use std::collections::HashMap;
use std::path::Path;

use fastrand::Rng;
use prost::Message;

use super::ShapeError;
use super::tensors::VOCAB;

/// Fixes which words the chain has.
const SEED: u64 = 7;

/// Marks the start of a word.
const SPACE: char = '▁';

/// `ModelProto` of sentencepiece_model.proto, as far as it is needed.
#[derive(Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
}

#[derive(Message)]
pub struct Piece {
    #[prost(string, required, tag = "1")]
    piece: String,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    /// Normal (the default), unknown, control, user-defined, unused, byte: numbered from 1, as
    /// GGUF's `token_type` does.
    #[prost(int32, optional, tag = "3", default = "1")]
    kind: Option<i32>,
}

impl Piece {
    pub fn text(&self) -> &str {
        &self.piece
    }
}

pub struct Vocab {
    pieces: Vec<Piece>,
    ids: HashMap<String, u32>,
}

impl Vocab {
    pub fn read(path: &Path) -> Result<Self, ShapeError> {
        let bytes = std::fs::read(path).map_err(|source| ShapeError::Vocab {
            path: path.to_owned(),
            source,
        })?;
        let model =
            ModelProto::decode(&bytes[..]).map_err(|source| ShapeError::NotSentencePiece {
                path: path.to_owned(),
                source,
            })?;
        if model.pieces.len() as u64 != VOCAB {
            return Err(ShapeError::OtherVocab {
                path: path.to_owned(),
                found: model.pieces.len(),
                expected: VOCAB as usize,
            });
        }
        Ok(Self::of(model.pieces))
    }

    fn of(pieces: Vec<Piece>) -> Self {
        let ids = pieces
            .iter()
            .map(|piece| piece.piece.clone())
            .zip(0..)
            .collect();
        Self { pieces, ids }
    }

    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.iter()
    }

    pub fn id(&self, piece: &str) -> Option<u32> {
        self.ids.get(piece).copied()
    }

    pub fn text(&self, ids: &[u32]) -> String {
        let words: String = ids
            .iter()
            .map(|id| self.pieces[*id as usize].text())
            .collect();
        words.replace(SPACE, " ").trim().to_owned()
    }

    /// `length` different words, each one token that its own text is encoded to again: a client
    /// that sends the answer back as history sends the same tokens.
    pub fn chain(&self, length: usize) -> Result<Vec<u32>, ShapeError> {
        let mut words: Vec<u32> = self.words().collect();
        Rng::with_seed(SEED).shuffle(&mut words);
        let found = words.len();
        words.truncate(length);
        match words.len() == length {
            true => Ok(words),
            false => Err(ShapeError::TooFewWords {
                found,
                wanted: length,
            }),
        }
    }

    /// Lower-case words of four letters and more. No piece has a space inside, so that words are
    /// encoded one by one and need be tried only one by one.
    fn words(&self) -> impl Iterator<Item = u32> {
        self.pieces().zip(0..).filter_map(|(piece, id)| {
            let word = piece.text().strip_prefix(SPACE)?;
            let plain = word.len() >= 4 && word.bytes().all(|byte| byte.is_ascii_lowercase());
            (plain && self.encode_word(piece.text()) == [id]).then_some(id)
        })
    }

    /// SentencePiece's merging: starts from characters and joins, again and again, the two
    /// neighbours whose joint piece scores highest, the leftmost of equals.
    fn encode_word(&self, word: &str) -> Vec<u32> {
        let mut parts: Vec<String> = word.chars().map(String::from).collect();
        loop {
            let joints = parts.windows(2).enumerate().filter_map(|(at, pair)| {
                let id = self.id(&pair.concat())?;
                Some((at, self.pieces[id as usize].score()))
            });
            // `>`: a later joint must be better to win.
            let best = joints.reduce(|best, next| if next.1 > best.1 { next } else { best });
            let Some((at, _)) = best else {
                return parts.iter().filter_map(|part| self.id(part)).collect();
            };
            let right = parts.remove(at + 1);
            parts[at].push_str(&right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocab(pieces: &[(&str, f32)]) -> Vocab {
        let piece = |(text, score): &(&str, f32)| Piece {
            piece: (*text).to_owned(),
            score: Some(*score),
            kind: None,
        };
        Vocab::of(pieces.iter().map(piece).collect())
    }

    #[test]
    fn a_word_whose_text_is_encoded_otherwise_is_no_link() {
        // "▁abcd" is a piece, but "bc" is joined first and leaves no way to it.
        let letters = [
            ("▁", -9.0),
            ("a", -9.0),
            ("b", -9.0),
            ("c", -9.0),
            ("d", -9.0),
        ];
        let mut pieces = letters.to_vec();
        pieces.extend([("bc", -1.0), ("▁a", -2.0), ("▁ab", -3.0)]);
        pieces.push(("▁abcd", -5.0));
        let vocab = vocab(&pieces);
        assert_eq!(vocab.encode_word("▁ab"), [7]);
        assert_eq!(vocab.encode_word("▁abcd"), [6, 5, 4]);
        assert_eq!(vocab.words().count(), 0);
    }

    #[test]
    fn too_few_words_are_an_error() {
        let vocab = vocab(&[("▁word", 0.0)]);
        let error = vocab
            .chain(1)
            .expect_err("no letters, so the word cannot be encoded");
        let text = "the vocabulary has 0 words that can be chained, expected 1";
        assert_eq!(error.to_string(), text);
    }
}
