//! What is asked: the same for every route, checked before anything is done with it.

use std::time::Instant;

use sha2::{Digest, Sha256};
use tracing::Span;

use super::Format;
use crate::access::Place;
use crate::error::Error;
use crate::stream::Keep;
use crate::types::{ModelInfo, Role, Sampling, Seed, SessionId, TenantId, Token};

/// One request.
pub struct Ask {
    pub tenant: TenantId,
    /// Its place among the tenant's requests, free again when the answer is complete.
    pub place: Place,
    /// Whose history it continues; `None`: the client brought the whole conversation.
    pub session: Option<SessionId>,
    /// The new message, or the whole conversation, oldest first; the last one is the user's.
    /// What a remembered session holds already is left out by [`Ask::news`].
    pub messages: Vec<Said>,
    /// Asked again for another answer, which takes the place of the last exchange.
    pub regenerates: bool,
    pub params: Params,
    /// What the client calls `params.max_tokens`.
    pub max_tokens_field: &'static str,
    /// What the operator tells policies about the request, by name.
    pub attributes: Vec<(String, String)>,
    /// How the answer is kept for a client that comes back; `None`: it is not.
    pub keep: Option<Keep>,
    /// The client's own name for the request, for the access log.
    pub request_id: Option<String>,
    /// Whether the client reads the answer as it is produced.
    pub streaming: bool,
    /// The server span.
    pub span: Span,
    pub route: &'static str,
    pub arrived: Instant,
}

#[derive(Clone, Debug)]
pub struct Said {
    pub role: Role,
    pub text: String,
}

/// How the answer is to be drawn; what is `None` comes from the configuration.
#[derive(Clone, Debug, Default)]
pub struct Params {
    pub max_tokens: Option<u32>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<i32>,
    pub min_p: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub repeat_penalty: Option<f32>,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(Token, f32)>,
    pub format: Format,
    pub seed: Option<Seed>,
    pub stop: Vec<String>,
    /// Tell how likely each token was, and so many of the likeliest in its place.
    pub logprobs: Option<u8>,
}

/// What holds where a request says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    pub max_tokens: u32,
    pub temperature: f32,
    pub seed: Seed,
}

impl Ask {
    /// What the request adds to a session: where one is remembered, its own history counts, and
    /// of what the client sent only instructions and what follows the last answer.
    pub fn news(&self, remembered: bool) -> impl Iterator<Item = &Said> {
        let answered = self
            .messages
            .iter()
            .rposition(|m| m.role == Role::Assistant);
        let old = answered.filter(|_| remembered).map_or(0, |at| at + 1);
        let is_new = move |(at, said): &(usize, &Said)| *at >= old || said.role == Role::System;
        self.messages
            .iter()
            .enumerate()
            .filter(is_new)
            .map(|(_, said)| said)
    }
}

/// Most stop sequences, and the longest of them in bytes.
const MAX_STOPS: usize = 8;
const MAX_STOP_BYTES: usize = 256;
/// Most tokens with a bias of their own.
const MAX_BIASES: usize = 1024;

impl Params {
    /// Checks the values' ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the field, what was found and what is expected.
    pub fn check(&self, model: &ModelInfo) -> Result<(), Error> {
        range("temperature", self.temperature, 0.0, 2.0)?;
        range("top_p", self.top_p, 0.0, 1.0)?;
        range("min_p", self.min_p, 0.0, 1.0)?;
        range("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        range("repeat_penalty", self.repeat_penalty, 0.1, 10.0)?;
        if self.max_tokens == Some(0) {
            return Err(Error::invalid("max_tokens", "found 0, expected at least 1"));
        }
        if let Some(k) = self.top_k.filter(|&k| k < 0) {
            return Err(Error::invalid(
                "top_k",
                format!("found {k}, expected 0 (off) or more"),
            ));
        }
        self.check_biases(model)?;
        if self.stop.len() > MAX_STOPS {
            let found = self.stop.len();
            return Err(Error::invalid(
                "stop",
                format!("found {found} sequences, expected at most {MAX_STOPS}"),
            ));
        }
        match self
            .stop
            .iter()
            .find(|s| s.is_empty() || s.len() > MAX_STOP_BYTES)
        {
            None => Ok(()),
            Some(stop) => Err(Error::invalid(
                "stop",
                format!(
                    "found a sequence of {} bytes, expected 1 to {MAX_STOP_BYTES}",
                    stop.len()
                ),
            )),
        }
    }

    fn check_biases(&self, model: &ModelInfo) -> Result<(), Error> {
        let wrong = |problem| Err(Error::invalid("logit_bias", problem));
        let found = self.logit_bias.len();
        if found > MAX_BIASES {
            return wrong(format!(
                "found {found} tokens, expected at most {MAX_BIASES}"
            ));
        }
        let known = |token: Token| u32::try_from(token).is_ok_and(|token| token < model.n_vocab);
        if let Some((token, _)) = self.logit_bias.iter().find(|(token, _)| !known(*token)) {
            let last = model.n_vocab - 1;
            return wrong(format!("found token {token}, expected 0 to {last}"));
        }
        let allowed = |bias: f32| (-100.0..=100.0).contains(&bias);
        match self.logit_bias.iter().find(|(_, bias)| !allowed(*bias)) {
            None => Ok(()),
            Some((token, bias)) => wrong(format!(
                "found {bias} for token {token}, expected -100 to 100"
            )),
        }
    }

    /// True where the same prompt is drawn the same way again: only then may an answer be shared.
    /// What is shared or kept is an answer's text: how likely it was would be lost.
    pub fn repeatable(&self, defaults: &Defaults) -> bool {
        if self.logprobs.is_some() {
            return false;
        }
        self.temperature.unwrap_or(defaults.temperature) == 0.0
            || self.seed.unwrap_or(defaults.seed) != Seed::Random
    }

    /// The parameters with every gap filled, the seed still open.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a form that no answer can be held to.
    pub fn sampling(&self, defaults: &Defaults) -> Result<Sampling, Error> {
        Ok(Sampling {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(40),
            top_p: self.top_p.unwrap_or(0.95),
            min_p: self.min_p.unwrap_or(0.05),
            repeat_penalty: self.repeat_penalty.unwrap_or(1.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            logit_bias: self.logit_bias.clone(),
            grammar: self.format.grammar()?,
            seed: 0,
            logprobs: self.logprobs,
        })
    }

    /// The seed, and where it came from, once the prompt is known.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn seed(
        &self,
        defaults: &Defaults,
        prompt: &[Token],
    ) -> Result<(u64, &'static str), Error> {
        match self.seed.unwrap_or(defaults.seed) {
            Seed::Fixed(seed) => Ok((seed, "client")),
            Seed::Derived => Ok((derive(prompt), "derived")),
            Seed::Random => {
                let mut bits = [0; 8];
                getrandom::fill(&mut bits)
                    .map_err(|e| Error::Internal(format!("no randomness for a seed: {e}")))?;
                Ok((u64::from_le_bytes(bits), "random"))
            }
        }
    }
}

/// The seed that a prompt has by itself: the first 8 bytes of its tokens' sha256.
fn derive(prompt: &[Token]) -> u64 {
    let mut hash = Sha256::new();
    for token in prompt {
        hash.update(token.to_le_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn range(field: &str, value: Option<f32>, low: f32, high: f32) -> Result<(), Error> {
    match value {
        Some(found) if !(low..=high).contains(&found) => Err(Error::invalid(
            field,
            format!("found {found}, expected {low} to {high}"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelInfo {
        ModelInfo {
            name: "tiny".into(),
            fingerprint: String::new(),
            n_ctx: 512,
            n_vocab: 100,
            bos: 1,
            eos: 2,
            demo: false,
        }
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let wrong = |params: Params| params.check(&model()).unwrap_err().to_string();
        assert_eq!(
            wrong(Params {
                temperature: Some(3.0),
                ..Params::default()
            }),
            "temperature: found 3, expected 0 to 2"
        );
        assert_eq!(
            wrong(Params {
                max_tokens: Some(0),
                ..Params::default()
            }),
            "max_tokens: found 0, expected at least 1"
        );
        let biased = |logit_bias: Vec<(Token, f32)>| Params {
            logit_bias,
            ..Params::default()
        };
        assert!(
            biased(vec![(0, -100.0), (99, 100.0)])
                .check(&model())
                .is_ok()
        );
        assert_eq!(
            wrong(biased(vec![(100, 1.0)])),
            "logit_bias: found token 100, expected 0 to 99"
        );
        assert_eq!(
            wrong(biased(vec![(5, -101.0)])),
            "logit_bias: found -101 for token 5, expected -100 to 100"
        );
        assert_eq!(
            wrong(biased(vec![(5, 0.0); 1025])),
            "logit_bias: found 1025 tokens, expected at most 1024"
        );
        let long = Params {
            stop: vec![String::new()],
            ..Params::default()
        };
        assert_eq!(
            wrong(long),
            "stop: found a sequence of 0 bytes, expected 1 to 256"
        );
    }

    #[test]
    fn a_derived_seed_follows_the_prompt_and_a_random_one_does_not() {
        let defaults = Defaults {
            max_tokens: 9,
            temperature: 0.7,
            seed: Seed::Derived,
        };
        let params = Params::default();
        let seed = |prompt: &[Token]| params.seed(&defaults, prompt).unwrap().0;
        assert_eq!(seed(&[1, 2]), seed(&[1, 2]));
        assert_ne!(seed(&[1, 2]), seed(&[2, 1]));
        let random = Params {
            seed: Some(Seed::Random),
            ..Params::default()
        };
        assert_ne!(
            random.seed(&defaults, &[1]).unwrap(),
            random.seed(&defaults, &[1]).unwrap()
        );
        let likely = Params {
            logprobs: Some(0),
            temperature: Some(0.0),
            ..Params::default()
        };
        assert!(!random.repeatable(&defaults) && params.repeatable(&defaults));
        assert!(
            !likely.repeatable(&defaults),
            "its probabilities would be lost"
        );
    }
}
