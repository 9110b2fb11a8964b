//! How likely a token was: what OpenAI's clients ask for with `logprobs`.

/// A token that was drawn, and what else might have been.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprob {
    pub drawn: Likely,
    /// The likeliest tokens in its place, the likeliest first; as many as were asked for.
    pub top: Vec<Likely>,
}

/// A token as its bytes, which may end inside a character, and the natural logarithm of its
/// probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Likely {
    pub bytes: Vec<u8>,
    pub logprob: f32,
}

/// Most tokens that are told in a token's place.
pub const MOST_TOP: u8 = 20;

impl Logprob {
    /// Without the space in front of an answer, which is no part of its text.
    pub fn trim_start(&mut self) {
        for likely in self.top.iter_mut().chain([&mut self.drawn]) {
            if likely.bytes.first() == Some(&b' ') {
                likely.bytes.remove(0);
            }
        }
    }
}
