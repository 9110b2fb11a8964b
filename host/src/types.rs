//! The vocabulary that the stages share. Stages do not import each other; they meet here.

mod logprob;
pub mod place;
pub mod units;
pub mod wording;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use logprob::{Likely, Logprob, MOST_TOP};

/// One entry of the model's vocabulary, as llama.cpp numbers it.
pub type Token = i32;

/// Who a request belongs to: `default` where no API keys are configured. Part of every key
/// under which anything is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TenantId(Arc<str>);

impl TenantId {
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    fn default() -> Self {
        Self::new("default")
    }
}

/// A conversation's name, unique within its tenant: 1 to 128 bytes of `[A-Za-z0-9._:-]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(Arc<str>);

/// Longest session id in bytes.
pub const MAX_SESSION_ID: usize = 128;

impl SessionId {
    /// Takes a client's id; the error is a sentence that tells what was found and expected.
    pub fn parse(id: &str) -> Result<Self, String> {
        if id.is_empty() || id.len() > MAX_SESSION_ID {
            return Err(format!(
                "session_id: {} bytes long, expected 1 to {MAX_SESSION_ID}",
                id.len()
            ));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
        match id.chars().find(|&c| !allowed(c)) {
            None => Ok(Self(id.into())),
            Some(c) => Err(format!(
                "session_id: contains {c:?}, expected only letters, digits, '.', '_', ':' and '-'"
            )),
        }
    }

    /// A fresh id of 128 random bits that nobody can guess.
    pub fn mint() -> Result<Self, getrandom::Error> {
        let mut bits = [0_u8; 16];
        getrandom::fill(&mut bits)?;
        Ok(Self(hex::encode(bits).into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A session's full key. Nothing that one key remembers is ever shown under another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    pub tenant: TenantId,
    pub session: SessionId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

/// One message of a conversation. Its token ids are counted once and never made again from
/// text: a generated answer keeps the very ids that the model produced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    /// Stable within the session, rising.
    pub id: u64,
    pub role: Role,
    pub text: Arc<str>,
    pub tokens: Arc<[Token]>,
    /// Never trimmed away.
    pub pinned: bool,
    /// Number of the exchange (question and answer) that it belongs to, rising from 0.
    pub exchange: u32,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The model's end of text, or a stop sequence.
    Stop,
    /// `max_tokens` reached.
    Length,
    /// An output filter stopped it.
    Filtered,
    /// The client left, or the server drains.
    Cancelled,
    Error,
}

/// Turns text into the loaded model's tokens and back. Shared with the engine thread; never
/// waits for a decode step.
pub trait Tokenizer: Send + Sync {
    /// `special`: whether control tokens written out in `text` (`</s>`) become that token. Text
    /// that came from a person is always encoded with `Special::AsText`.
    fn encode(&self, text: &str, special: Special) -> Vec<Token>;
    /// The bytes of one token; a token may end inside a character.
    fn bytes(&self, token: Token) -> Vec<u8>;
    /// Tokens of `text` with [`Special::AsText`].
    fn count(&self, text: &str) -> u32 {
        u32::try_from(self.encode(text, Special::AsText).len()).unwrap_or(u32::MAX)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `</s>` in the text is the end-of-text token.
    Parse,
    /// `</s>` in the text is four ordinary characters.
    AsText,
}

/// What identifies the loaded model: part of every cache key.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// `general.name` of the file, or its stem.
    pub name: String,
    /// Digest of all that makes it the model it is: the whole file with its weights, or what an
    /// upstream is asked for. Models that differ do not share answers.
    pub fingerprint: String,
    /// Context of one slot, in tokens.
    pub n_ctx: u32,
    pub n_vocab: u32,
    /// Beginning- and end-of-text tokens.
    pub bos: Token,
    pub eos: Token,
    /// True for the bundled demo model, whose answers are no medical advice.
    pub demo: bool,
}

/// How the next token is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    pub top_k: i32,
    pub top_p: f32,
    pub min_p: f32,
    pub repeat_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub logit_bias: Vec<(Token, f32)>,
    /// GBNF text, made from a JSON schema or given.
    pub grammar: Option<Arc<str>>,
    /// Always set: a client's, a derived or a random one.
    pub seed: u64,
    /// Tell how likely each token was, and so many of the likeliest in its place.
    pub logprobs: Option<u8>,
}

impl Sampling {
    /// Always the likeliest token; all else is off.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            grammar: None,
            seed: 1,
            logprobs: None,
        }
    }
}

/// The right to use the engine: one of `slots + queue`. It lives until the worker confirms that
/// the slot is free, so that "how many are admitted" is never guessed.
#[derive(Debug)]
pub struct SlotPermit {
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl SlotPermit {
    /// Only admission mints permits; unadmitted work does not compile.
    pub(crate) fn new(permit: tokio::sync::OwnedSemaphorePermit) -> Self {
        Self { _permit: permit }
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a request's seed comes from: `"derived"`, `"random"`, or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Seed {
    /// From the final prompt and the parameters: the same question in the same state gives the
    /// same answer, which can be shared and cached.
    Derived,
    /// A fresh one: another answer each time.
    Random,
    #[serde(untagged)]
    Fixed(u64),
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Word;
        impl serde::de::Visitor<'_> for Word {
            type Value = Seed;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, \"derived\" or \"random\"")
            }
            // OpenAI's seeds are signed; -1 is as good a number as any.
            fn visit_i64<E>(self, n: i64) -> Result<Seed, E> {
                Ok(Seed::Fixed(n.cast_unsigned()))
            }
            fn visit_u64<E>(self, n: u64) -> Result<Seed, E> {
                Ok(Seed::Fixed(n))
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Seed, E> {
                match word {
                    "derived" => Ok(Seed::Derived),
                    "random" => Ok(Seed::Random),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(word), &self)),
                }
            }
        }
        d.deserialize_any(Word)
    }
}
