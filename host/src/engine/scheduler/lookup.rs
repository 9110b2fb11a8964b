//! Prompt lookup: when the last words of an answer stood in the text before, guess that what
//! followed them then follows again (Saxena 2023, "Prompt Lookup Decoding").
//!
//! A guess costs rows in the step. Whether it pays depends on the text, so every answer keeps a
//! running mean of what its guesses brought and stops guessing while they bring too little.

use crate::types::Token;

/// Tokens that must match before a guess is made.
const NGRAM: usize = 3;
/// Most tokens guessed at once: with the sampled one they fill a kernel group of four rows.
pub const MOST: usize = 3;
/// Tokens after which an answer that stopped guessing tries again.
const RETRY: u32 = 32;

/// One answer's record.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    /// Mean of guessed tokens that were right, per try.
    gain: f64,
    /// Steps since the last try.
    idle: u32,
}

impl Default for Lookup {
    fn default() -> Self {
        Self { gain: 1.5, idle: 0 }
    }
}

impl Lookup {
    /// Whether a try is expected to bring more than it costs; `ratio` is the time of a step with
    /// the guess over one without.
    pub fn pays(&mut self, ratio: f64) -> bool {
        if 1.0 + self.gain > ratio {
            return true;
        }
        self.idle += 1;
        if self.idle >= RETRY {
            *self = Self::default();
        }
        false
    }

    /// Takes in how many of the guessed tokens were right.
    pub fn record(&mut self, right: usize) {
        self.idle = 0;
        self.gain += 0.2 * (right as f64 - self.gain);
    }
}

/// What followed the latest earlier occurrence of the last three tokens of `context` + `next`.
pub fn guess(context: &[Token], next: Token, most: usize) -> Vec<Token> {
    let Some(tail) = context.len().checked_sub(NGRAM - 1) else {
        return Vec::new();
    };
    let wanted = [context[tail], context[tail + 1], next];
    let found = context.windows(NGRAM).rposition(|window| window == wanted);
    match found {
        None => Vec::new(),
        Some(at) => {
            let follow = &context[at + NGRAM..];
            // The follow-up may run into the end of the context: then `next` follows.
            follow.iter().copied().chain([next]).take(most).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_is_guessed() {
        assert_eq!(guess(&[1, 2, 3, 4, 5, 6, 1, 2], 3, 3), [4, 5, 6]);
        assert_eq!(guess(&[1, 2, 3, 4, 5, 6, 1, 2], 9, 3), [0; 0]);
        assert_eq!(
            guess(&[7, 7, 7], 7, 3),
            [7],
            "only `next` is known to follow"
        );
        assert_eq!(guess(&[7], 7, 3), [0; 0]);
    }

    #[test]
    fn guesses_that_bring_nothing_stop_and_are_tried_again() {
        let mut lookup = Lookup::default();
        for _ in 0..10 {
            lookup.record(0);
        }
        assert!(!lookup.pays(1.65));
        assert!((0..RETRY).any(|_| lookup.pays(1.65)));
    }
}
