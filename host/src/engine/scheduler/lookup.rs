//! Prompt lookup: when the last words of an answer stood in the text before, guess that what
//! followed them then follows again (Saxena 2023, "Prompt Lookup Decoding").
//!
//! A guess costs rows in the step. Whether it pays, and how many tokens are worth it, depends on
//! the text: every answer keeps a running share of guesses that were right, takes the length that
//! promises most tokens a second, and stops guessing while that is none.

use crate::types::Token;

/// Tokens that must match before a guess is made.
const NGRAM: usize = 3;
/// Most tokens guessed at once: with the sampled one they fill a kernel block of sixteen rows.
pub const MOST: usize = 15;
/// Tokens after which an answer that stopped guessing tries again.
const RETRY: u32 = 32;
/// Weight of the newest guessed token.
const NEWEST: f64 = 0.2;

/// One answer's record.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    /// Share of guessed tokens that were right, of those whose predecessors were.
    right: f64,
    /// Steps since the last try.
    idle: u32,
}

impl Default for Lookup {
    fn default() -> Self {
        Self {
            right: 0.7,
            idle: 0,
        }
    }
}

impl Lookup {
    /// How many tokens to guess: of `lengths`, each with the time of a step with such a guess over
    /// one without, the one that promises most tokens a second; 0 if none gains.
    pub fn length(&mut self, lengths: impl IntoIterator<Item = (usize, f64)>) -> usize {
        let mut best = (0, 1.0);
        for (length, ratio) in lengths {
            let gain = self.expected(length) / ratio;
            if gain > best.1 {
                best = (length, gain);
            }
        }
        if best.0 == 0 {
            self.idle += 1;
            if self.idle >= RETRY {
                *self = Self::default();
            }
        }
        best.0
    }

    /// Tokens that a step with so many guessed ones brings: the sampled one, and each guess if all
    /// before it were right.
    fn expected(&self, guessed: usize) -> f64 {
        (0..=guessed as i32).map(|n| self.right.powi(n)).sum()
    }

    /// Takes in how many of the guessed tokens were right.
    pub fn record(&mut self, guessed: usize, right: usize) {
        self.idle = 0;
        for _ in 0..right {
            self.right += NEWEST * (1.0 - self.right);
        }
        if right < guessed {
            self.right -= NEWEST * self.right;
        }
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

    /// The steps of one answer: a guess of 3 takes 2.4 steps' time, one of 15 takes 6.8.
    const STEPS: [(usize, f64); 2] = [(3, 2.4), (15, 6.8)];

    #[test]
    fn guesses_that_bring_nothing_stop_and_are_tried_again() {
        let mut lookup = Lookup::default();
        assert_eq!(lookup.length(STEPS), 3, "everybody gets a try");
        for _ in 0..3 {
            lookup.record(3, 0);
        }
        assert_eq!(lookup.length(STEPS), 0);
        assert!((0..RETRY).any(|_| lookup.length(STEPS) > 0));
    }

    #[test]
    fn text_that_repeats_is_guessed_further_ahead() {
        let mut lookup = Lookup::default();
        for _ in 0..3 {
            lookup.record(3, 3);
        }
        assert_eq!(lookup.length(STEPS), 15);
        assert_eq!(lookup.length([(15, 17.0)]), 0, "not at any price");
        // One word was another one.
        lookup.record(15, 4);
        assert_eq!(lookup.length(STEPS), 3);
    }
}
