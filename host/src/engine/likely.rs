//! Probabilities that wait until the text of their tokens is sent: who reads them never knows more
//! than what was said.

use std::collections::VecDeque;

use crate::types::Logprob;

/// One answer's probabilities, a group for each piece of text that was put in.
#[derive(Debug, Default)]
pub struct Waiting {
    groups: VecDeque<Vec<Logprob>>,
    /// Something with text was put in.
    begun: bool,
}

impl Waiting {
    /// Takes in what belongs to the next piece.
    pub fn push(&mut self, mut group: Vec<Logprob>) {
        if !self.begun
            && let Some(first) = group.iter_mut().find(|one| !one.drawn.bytes.is_empty())
        {
            self.begun = true;
            if first.drawn.bytes.starts_with(b" ") {
                first.trim_start();
            }
        }
        self.groups.push_back(group);
    }

    /// What belongs to the next `pieces` of text.
    pub fn take(&mut self, pieces: usize) -> Vec<Logprob> {
        let pieces = pieces.min(self.groups.len());
        self.groups.drain(..pieces).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Likely;

    fn one(text: &str) -> Vec<Logprob> {
        let likely = |text: &str| Likely {
            bytes: text.into(),
            logprob: -1.0,
        };
        vec![Logprob {
            drawn: likely(text),
            top: vec![likely(text), likely("other")],
        }]
    }

    #[test]
    fn pieces_leave_in_order_and_the_first_space_stays_behind() {
        let mut waiting = Waiting::default();
        for text in ["", " a", " b"] {
            waiting.push(one(text));
        }
        let told = |all: Vec<Logprob>| -> Vec<String> {
            let text = |one: &Logprob| String::from_utf8_lossy(&one.drawn.bytes).into_owned();
            all.iter().map(text).collect()
        };
        let first = waiting.take(2);
        assert_eq!(first[1].top[0], first[1].drawn);
        assert_eq!(told(first), ["", "a"]);
        assert_eq!(told(waiting.take(9)), [" b"]);
        assert!(waiting.take(1).is_empty());
    }
}
