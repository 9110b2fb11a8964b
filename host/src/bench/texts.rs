//! Questions: plain words in an order that a seed fixes. Two questions differ from their first
//! word on, so that no server answers one from what it remembers of another.

use fastrand::Rng;

/// Words that most vocabularies hold as one token.
const WORDS: &str = "the patient has been feeling unwell for three days with pain in the left \
    side of the chest and a dry cough that gets worse at night after a long walk or when lying \
    down there is no fever but some loss of weight over the last two months an early test showed \
    low iron and high blood pressure while the heart rate was normal under rest both parents had \
    heart disease before they were fifty one sister lives well with diabetes since school he takes \
    water tablets each morning and something against acid every other day what could be the cause \
    how would you treat it which food should be avoided is surgery needed soon can children get \
    this too please explain in simple words why that drug helps against an infection of the skin";

/// Where questions come from.
pub struct Texts {
    rng: Rng,
    words: Vec<&'static str>,
}

impl Texts {
    /// The same `seed` and `part` give the same texts.
    pub fn new(seed: u64, part: u64) -> Self {
        let mut mix = Rng::with_seed(seed);
        Self {
            rng: Rng::with_seed(mix.u64(..) ^ part.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            words: WORDS.split_whitespace().collect(),
        }
    }

    /// A question of this many words.
    pub fn question(&mut self, words: usize) -> String {
        let mut pick = || self.words[self.rng.usize(..self.words.len())];
        let mut text = (0..words).map(|_| pick()).collect::<Vec<_>>().join(" ");
        if let Some(first) = text.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        text.push('?');
        text
    }

    /// A time around `mean`, from its half to one and a half.
    pub fn pause(&mut self, mean: std::time::Duration) -> std::time::Duration {
        mean.mul_f64(0.5 + self.rng.f64())
    }

    /// A time between nothing and `most`.
    pub fn delay(&mut self, most: std::time::Duration) -> std::time::Duration {
        most.mul_f64(self.rng.f64())
    }
}
