//! A conversation as a client keeps it.

use crate::bench::Memory;
use crate::bench::client::{Question, Turn};

/// Exchanges that a client sends along, as the chat backends do that remember the last three.
const KEPT: usize = 3;

#[derive(Debug)]
pub struct Conversation {
    name: String,
    memory: Memory,
    history: Vec<Turn>,
}

impl Conversation {
    pub fn new(name: String, memory: Memory) -> Self {
        Self {
            name,
            memory,
            history: Vec::new(),
        }
    }

    /// The request for the next turn.
    pub fn question(&self, text: &str, max_tokens: u32) -> Question {
        let (history, session) = match self.memory {
            Memory::History => (&self.history[..], None),
            Memory::Named => (&self.history[..], Some(self.name.clone())),
            Memory::Stored => (&[][..], Some(self.name.clone())),
        };
        let mut messages = history.to_vec();
        messages.push(Turn::user(text));
        Question {
            messages,
            max_tokens,
            session,
        }
    }

    /// The turn is over: keeps it, and forgets what is too old.
    pub fn remember(&mut self, question: String, answer: String) {
        self.history.push(Turn::user(question));
        self.history.push(Turn::assistant(answer));
        let surplus = self.history.len().saturating_sub(2 * KEPT);
        self.history.drain(..surplus);
    }
}
