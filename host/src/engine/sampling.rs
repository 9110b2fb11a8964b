//! Draws the next token from the logits: bias, penalties, grammar, top-k, top-p, min-p,
//! temperature, in this order.
//!
//! The draw depends on the seed and on how many tokens were drawn before, and on nothing else: the
//! same logits give the same answer, whether tokens were guessed ahead or not.

mod told;

use std::collections::HashMap;

pub use told::Told;

use crate::types::{Sampling, Token};

/// Tokens of the past that the penalties look at.
const PENALTY_WINDOW: usize = 64;

/// What a grammar allows. Lives where llama.cpp is known.
pub trait Grammar: Send {
    /// Sets the logit of every candidate that may not come next to minus infinity.
    fn filter(&mut self, candidates: &mut Vec<Candidate>);
    /// Takes note of the token that was drawn.
    fn accept(&mut self, token: Token) -> Result<(), String>;
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub token: Token,
    pub logit: f32,
}

/// One answer's way of drawing.
pub struct Sampler {
    how: Sampling,
    grammar: Option<Box<dyn Grammar>>,
    random: Random,
    /// The last tokens, oldest first.
    recent: Vec<Token>,
    candidates: Vec<Candidate>,
    /// How likely the last token was, where that is asked for.
    told: Option<Told>,
}

impl Sampler {
    /// `prompt`: its last tokens count for the penalties.
    pub fn new(how: Sampling, grammar: Option<Box<dyn Grammar>>, prompt: &[Token]) -> Self {
        let recent = prompt[prompt.len().saturating_sub(PENALTY_WINDOW)..].to_vec();
        let random = Random(how.seed);
        Self {
            how,
            grammar,
            random,
            recent,
            candidates: Vec::new(),
            told: None,
        }
    }

    /// How likely the token drawn last was; `None` where nobody asked.
    pub fn told(&mut self) -> Option<Told> {
        self.told.take()
    }

    /// The next token.
    ///
    /// # Errors
    /// The grammar allows no token or cannot go on, in its own words.
    pub fn draw(&mut self, logits: &[f32]) -> Result<Token, String> {
        let chance = self.random.next();
        let token = match self.quick(logits) {
            Some(token) => token,
            None => {
                self.load(logits);
                let token = self.choose(chance);
                if self.allowed(token) {
                    token
                } else {
                    // Only now the whole vocabulary is held against the grammar: that takes
                    // milliseconds, and most tokens drawn are allowed anyway.
                    self.load(logits);
                    let candidates = &mut self.candidates;
                    if let Some(grammar) = &mut self.grammar {
                        grammar.filter(candidates);
                    }
                    candidates.retain(|candidate| candidate.logit > f32::NEG_INFINITY);
                    if candidates.is_empty() {
                        return Err("no token of the vocabulary may follow".into());
                    }
                    self.choose(chance)
                }
            }
        };
        if let Some(most) = self.how.logprobs {
            self.told = Some(told::told(logits, token, usize::from(most)));
        }
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token)?;
        }
        if self.recent.len() == PENALTY_WINDOW {
            self.recent.remove(0);
        }
        self.recent.push(token);
        Ok(token)
    }

    /// Greedy without anything that changes logits needs no candidates.
    fn quick(&self, logits: &[f32]) -> Option<Token> {
        let plain = self.how.temperature <= 0.0
            && self.grammar.is_none()
            && self.how.logit_bias.is_empty()
            && !self.penalised();
        plain.then(|| largest(logits) as Token)
    }

    fn penalised(&self) -> bool {
        let how = &self.how;
        how.repeat_penalty != 1.0 || how.presence_penalty != 0.0 || how.frequency_penalty != 0.0
    }

    fn load(&mut self, logits: &[f32]) {
        self.candidates.clear();
        let all = logits.iter().enumerate();
        self.candidates.extend(all.map(|(i, &logit)| Candidate {
            token: i as Token,
            logit,
        }));
        for &(token, bias) in &self.how.logit_bias {
            if let Some(candidate) = usize::try_from(token)
                .ok()
                .and_then(|i| self.candidates.get_mut(i))
            {
                candidate.logit += bias;
            }
        }
        if self.penalised() {
            self.penalise();
        }
    }

    fn penalise(&mut self) {
        let mut counts = HashMap::<Token, u32>::new();
        for &token in &self.recent {
            *counts.entry(token).or_default() += 1;
        }
        for (token, count) in counts {
            let Some(candidate) = usize::try_from(token)
                .ok()
                .and_then(|i| self.candidates.get_mut(i))
            else {
                continue;
            };
            let repeat = self.how.repeat_penalty;
            if candidate.logit > 0.0 {
                candidate.logit /= repeat;
            } else {
                candidate.logit *= repeat;
            }
            candidate.logit -=
                self.how.presence_penalty + count as f32 * self.how.frequency_penalty;
        }
    }

    fn allowed(&mut self, token: Token) -> bool {
        let Some(grammar) = &mut self.grammar else {
            return true;
        };
        let mut one = vec![Candidate { token, logit: 0.0 }];
        grammar.filter(&mut one);
        one.first()
            .is_some_and(|candidate| candidate.logit > f32::NEG_INFINITY)
    }

    /// Draws from the loaded candidates; at least one has a finite logit.
    fn choose(&mut self, chance: f64) -> Token {
        let candidates = &mut self.candidates;
        if self.how.temperature <= 0.0 {
            let best = candidates
                .iter()
                .copied()
                .reduce(|a, b| if b.logit > a.logit { b } else { a });
            return best.map_or(0, |best| best.token);
        }
        let by_logit =
            |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token));
        let keep = usize::try_from(self.how.top_k).unwrap_or(0);
        if keep > 0 && keep < candidates.len() {
            candidates.select_nth_unstable_by(keep - 1, by_logit);
            candidates.truncate(keep);
        }
        candidates.sort_unstable_by(by_logit);
        let top = candidates[0].logit;
        let weight =
            |c: &Candidate, temperature: f32| f64::from((c.logit - top) / temperature).exp();
        if self.how.top_p < 1.0 {
            let total: f64 = candidates.iter().map(|c| weight(c, 1.0)).sum();
            let mut sum = 0.0;
            let cut = candidates.iter().position(|c| {
                sum += weight(c, 1.0) / total;
                sum >= f64::from(self.how.top_p)
            });
            candidates.truncate(cut.map_or(candidates.len(), |cut| cut + 1));
        }
        if self.how.min_p > 0.0 {
            let least = f64::from(self.how.min_p);
            let cut = candidates.iter().position(|c| weight(c, 1.0) < least);
            candidates.truncate(cut.unwrap_or(candidates.len()).max(1));
        }
        let temperature = self.how.temperature;
        let total: f64 = candidates.iter().map(|c| weight(c, temperature)).sum();
        let mut left = chance * total;
        for candidate in candidates.iter() {
            left -= weight(candidate, temperature);
            if left < 0.0 {
                return candidate.token;
            }
        }
        candidates[candidates.len() - 1].token
    }
}

fn largest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = i;
        }
    }
    best
}

/// SplitMix64 (Steele, Lea, Flood 2014): every draw from a seed is the same on every machine.
struct Random(u64);

impl Random {
    /// Uniform in [0, 1).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
