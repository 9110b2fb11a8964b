//! Which answers answer which question: a key over everything that an answer depends on.

use sha2::{Digest, Sha256};

use crate::types::{Sampling, SessionId, TenantId, Token};

/// Who may meet an answer: one session, all of a tenant, or everybody.
#[derive(Clone, Copy, Debug)]
pub enum Audience<'a> {
    Session(&'a TenantId, &'a SessionId),
    Tenant(&'a TenantId),
    Everybody,
}

/// What the question is: the final prompt, or the policy's own reading of it.
#[derive(Clone, Copy, Debug)]
pub enum Basis<'a> {
    /// `stop`: the texts at which the prompt's own policy ends an answer.
    Prompt {
        tokens: &'a [Token],
        stop: &'a [String],
    },
    Parts(&'a [String]),
}

/// What settles how the answer's tokens are drawn, beside the parameters.
#[derive(Clone, Copy, Debug)]
pub enum Draw {
    /// The likeliest token each time: a seed changes nothing.
    Greedy,
    Seed(u64),
    /// By a seed that follows from the prompt, which is not known yet.
    Derived,
}

/// Everything that an answer depends on. A policy chooses the basis and asks for an audience;
/// it has no say in the rest, so that it can narrow an identity and never widen it.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    pub audience: Audience<'a>,
    /// The model's fingerprint.
    pub model: &'a str,
    /// Its name and the context of a slot, which policies are told.
    pub name: &'a str,
    pub context: u32,
    /// Share of the prompt budget that trimming cuts down to; `None` where the prompt shows what
    /// became of that.
    pub low_water: Option<u8>,
    /// Digest of the policies that the answer depends on, and of their configurations.
    pub policies: &'a str,
    /// What policies were told about the request: they may have decided by it.
    pub attributes: &'a [(String, String)],
    pub streaming: bool,
    pub sampling: &'a Sampling,
    pub draw: Draw,
    pub max_tokens: u32,
    pub stop: &'a [String],
    pub basis: Basis<'a>,
}

/// sha256 of an [`Identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub(super) [u8; 32]);

impl Key {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Identity<'_> {
    pub fn key(&self) -> Key {
        let mut hash = Fields(Sha256::new());
        match self.audience {
            Audience::Session(tenant, session) => {
                hash.text("session")
                    .text(tenant.as_str())
                    .text(session.as_str());
            }
            Audience::Tenant(tenant) => {
                hash.text("tenant").text(tenant.as_str());
            }
            Audience::Everybody => {
                hash.text("everybody");
            }
        }
        hash.text(self.model).text(self.name).text(self.policies);
        hash.bytes(&self.context.to_le_bytes());
        hash.bytes(self.low_water.as_slice());
        hash.bytes(&self.attributes.len().to_le_bytes());
        for (name, value) in self.attributes {
            hash.text(name).text(value);
        }
        hash.bytes(&[u8::from(self.streaming)]);
        self.hash_drawing(&mut hash);
        hash.bytes(&self.max_tokens.to_le_bytes()).texts(self.stop);
        match self.basis {
            Basis::Prompt { tokens, stop } => {
                hash.text("prompt").texts(stop);
                hash.bytes(&tokens.len().to_le_bytes());
                for token in tokens {
                    hash.0.update(token.to_le_bytes());
                }
            }
            Basis::Parts(parts) => {
                hash.text("parts").texts(parts);
            }
        }
        Key(hash.0.finalize().into())
    }

    fn hash_drawing(&self, hash: &mut Fields) {
        let s = self.sampling;
        for number in [
            s.temperature,
            s.top_p,
            s.min_p,
            s.repeat_penalty,
            s.presence_penalty,
            s.frequency_penalty,
        ] {
            hash.bytes(&number.to_bits().to_le_bytes());
        }
        hash.bytes(&s.top_k.to_le_bytes());
        hash.bytes(&s.logit_bias.len().to_le_bytes());
        for (token, bias) in &s.logit_bias {
            hash.bytes(&token.to_le_bytes())
                .bytes(&bias.to_bits().to_le_bytes());
        }
        hash.text(s.grammar.as_deref().unwrap_or_default());
        match self.draw {
            Draw::Greedy => hash.text("greedy"),
            Draw::Seed(seed) => hash.text("seed").bytes(&seed.to_le_bytes()),
            Draw::Derived => hash.text("derived"),
        };
    }
}

/// Hashes fields with their lengths, so that no two lists of fields read the same.
struct Fields(Sha256);

impl Fields {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes.len().to_le_bytes());
        self.0.update(bytes);
        self
    }
    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }
    fn texts(&mut self, texts: &[String]) -> &mut Self {
        self.bytes(&texts.len().to_le_bytes());
        for text in texts {
            self.text(text);
        }
        self
    }
}
