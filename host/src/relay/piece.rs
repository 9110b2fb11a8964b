//! What is said of a run: the engine's events, as far as others need them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Failure, Name};
use crate::seal::Keys;
use crate::types::{Finish, Token};

/// Hosts of another version read nothing of this, and compute for themselves.
const VERSION: u8 = 1;

/// One piece. The order of variants and fields is the format, version 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Piece {
    /// The first one: trace and span of whoever computes.
    Leader {
        trace: [u8; 16],
        span: [u8; 8],
    },
    Queued {
        position: u64,
    },
    Text {
        text: String,
        tokens: Vec<Token>,
    },
    /// The last one of a run that ended as it should.
    Finished(End),
    /// The last one otherwise: whoever reads computes for themselves.
    Broken,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    pub finish: Finish,
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub output_tokens: u32,
    pub queued: Duration,
    pub prefill: Duration,
    pub decode: Duration,
}

impl Piece {
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Finished(_) | Self::Broken)
    }

    pub(super) fn encode(
        &self,
        (name, token, at): Place<'_>,
        keys: &Keys,
    ) -> Result<Vec<u8>, Failure> {
        let body = postcard::to_allocvec(self).map_err(|_| "unreadable")?;
        keys.pack(VERSION, &name.context(token, at), &body)
            .map_err(|_| "unsealed")
    }

    pub(super) fn decode(
        bytes: &[u8],
        (name, token, at): Place<'_>,
        keys: &Keys,
    ) -> Result<Self, Failure> {
        let body = keys
            .unpack(VERSION, &name.context(token, at), bytes)
            .map_err(|_| "unreadable")?;
        postcard::from_bytes(&body).map_err(|_| "unreadable")
    }
}

/// The run, who says it, and the piece's number.
pub(super) type Place<'a> = (&'a Name, &'a str, u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_read_in_its_place_only() {
        let keys = Keys::parse(&format!("a:{}", "11".repeat(32))).unwrap();
        let (run, other) = (Name::new(&[1; 32]), Name::new(&[2; 32]));
        let piece = Piece::Text {
            text: "a canary".into(),
            tokens: vec![1, -2],
        };
        let sealed = piece.encode((&run, "t", 3), &keys).unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"canary"));
        assert_eq!(Piece::decode(&sealed, (&run, "t", 3), &keys), Ok(piece));
        for place in [(&run, "t", 4), (&run, "u", 3), (&other, "t", 3)] {
            assert_eq!(Piece::decode(&sealed, place, &keys), Err("unreadable"));
        }
    }
}
