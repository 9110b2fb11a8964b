//! The cache that checks every operation as llama.cpp would do it.

use std::collections::{HashMap, HashSet};

use super::CELLS;
use crate::engine::scheduler::{Op, Row, SeqId, Ticket};
use crate::types::Token;

/// A cache as llama.cpp has it: cells with a position and the sequences they belong to.
#[derive(Default)]
pub struct Cache {
    seqs: HashMap<SeqId, Vec<(usize, Token)>>,
    pub parked: HashMap<Ticket, Vec<Token>>,
    next_cell: usize,
}

impl Cache {
    pub fn cells(&self) -> usize {
        self.seqs
            .values()
            .flatten()
            .map(|(cell, _)| *cell)
            .collect::<HashSet<_>>()
            .len()
    }

    pub fn tokens(&self, seq: SeqId) -> Vec<Token> {
        self.seqs
            .get(&seq)
            .into_iter()
            .flatten()
            .map(|(_, token)| *token)
            .collect()
    }

    fn add(&mut self, seq: SeqId, token: Token) {
        self.next_cell += 1;
        self.seqs
            .entry(seq)
            .or_default()
            .push((self.next_cell, token));
    }

    pub fn apply(&mut self, op: Op) {
        match op {
            Op::Remove { seq, from } => {
                let body = self.seqs.entry(seq).or_default();
                body.truncate(from as usize);
            }
            Op::Share { from, to, len } => {
                let shared = self.seqs[&from][..len as usize].to_vec();
                let old = self.seqs.insert(to, shared);
                assert!(
                    old.is_none_or(|old| old.is_empty()),
                    "shared into a sequence in use"
                );
            }
            Op::Adopt { from, to, len } => {
                let shared = self.seqs[&from][..len as usize].to_vec();
                let own = self.seqs.get_mut(&to).expect("it has tokens");
                for (own, shared) in own.iter_mut().zip(shared) {
                    assert_eq!(own.1, shared.1, "another text was taken for its own");
                    *own = shared;
                }
            }
            Op::Park { seq, ticket } => {
                let tokens = self.tokens(seq);
                assert!(!tokens.is_empty());
                self.parked.insert(ticket, tokens);
                self.seqs.remove(&seq);
            }
            Op::Restore { seq, ticket, len } => {
                assert!(
                    self.tokens(seq).is_empty(),
                    "restored over a sequence in use"
                );
                let tokens = self.parked.remove(&ticket).expect("the copy is there");
                assert_eq!(tokens.len(), len as usize);
                for token in tokens {
                    self.add(seq, token);
                }
            }
            Op::Discard { ticket } => {
                self.parked.remove(&ticket).expect("the copy is there");
            }
        }
        assert!(
            self.cells() <= CELLS as usize,
            "{op:?} overfills the cache: {}",
            self.cells()
        );
    }

    pub fn step(&mut self, rows: &[Row]) {
        for row in rows {
            let len = self.seqs.get(&row.seq).map_or(0, Vec::len);
            assert_eq!(row.pos as usize, len, "positions are consecutive: {row:?}");
            self.add(row.seq, row.token);
        }
        assert!(
            self.cells() <= CELLS as usize,
            "the step overfills the cache: {}",
            self.cells()
        );
    }
}
