//! One request on its way: the conversation as the policies see it, and what every later stage
//! asks of it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Ask, Gateway, Live};
use crate::cache::{Audience, Basis as CacheBasis, Cached, Draw, Identity, Key};
use crate::error::Error;
use crate::policy::{
    self, CacheKey, Denied, Facts, Layout, Lookup, Prompt, Scope, Snapshot, Trimmed,
};
use crate::session::Session;
use crate::trace::spans;
use crate::types::{Message, Role, Sampling, Seed, SessionKey, Special, Token};

/// The conversation with the new message at its end.
pub struct Turn {
    pub gateway: Arc<Gateway>,
    pub live: Arc<Live>,
    pub ask: Ask,
    pub policies: Snapshot,
    /// Oldest first; the last one is new.
    pub messages: Vec<Message>,
    /// Where trimming cut the last time.
    pub anchor: Option<u64>,
    pub sampling: Sampling,
    pub max_tokens: u32,
    /// `client`, `derived` or `random`, once the prompt is known.
    pub seed_source: &'static str,
    layout: Layout,
}

/// The request as policies see it.
pub fn facts(gateway: &Gateway, live: &Live, ask: &Ask) -> Facts {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Facts {
        model: gateway.engine.model().name.as_str().into(),
        now_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        context: gateway.engine.model().n_ctx,
        reserved_output: max_tokens(live, ask),
        streaming: ask.streaming,
        attributes: ask.attributes.clone(),
        tenant: ask.tenant.clone(),
    }
}

/// Tokens that the answer may have.
fn max_tokens(live: &Live, ask: &Ask) -> u32 {
    ask.params.max_tokens.unwrap_or(live.defaults.max_tokens)
}

impl Turn {
    /// Loads the history and puts the new message behind it.
    ///
    /// # Errors
    /// When the message can never fit the context, or the answer its form.
    pub async fn open(
        gateway: &Arc<Gateway>,
        live: Arc<Live>,
        ask: Ask,
        policies: Snapshot,
        layout: Layout,
    ) -> Result<Self, Error> {
        let max_tokens = max_tokens(&live, &ask);
        let sampling = ask.params.sampling(&live.defaults)?;
        // Found out before the head is sent: most grammars that fail do so here.
        if let Err(error) = gateway.engine.check(&sampling) {
            return Err(Error::invalid(ask.params.format.field(), error.to_string()));
        }
        let mut turn = Self {
            sampling,
            gateway: Arc::clone(gateway),
            live,
            ask,
            policies,
            messages: Vec::new(),
            anchor: None,
            max_tokens,
            seed_source: "derived",
            layout,
        };
        let session = turn.history().await;
        turn.anchor = session.anchor;
        let (id, exchange) = session.next();
        turn.messages = session.messages.iter().map(|m| turn.safe(m)).collect();
        let remembered = !turn.messages.is_empty();
        turn.add_said(id, exchange, remembered);
        turn.check_fit()?;
        Ok(turn)
    }

    async fn history(&self) -> Session {
        let Some(key) = self.key() else {
            return Session::default();
        };
        let span = spans::session_load(&self.ask.span, "memory");
        let session = self.gateway.sessions.load(&key).await;
        spans::turns(&span, session.messages.len() / 2);
        session
    }

    /// The session's key; `None` for a stateless request.
    pub fn key(&self) -> Option<SessionKey> {
        let session = self.ask.session.clone()?;
        Some(SessionKey {
            tenant: self.ask.tenant.clone(),
            session,
        })
    }

    /// Tokens of a text from outside. What means something to the layout is neutralised first,
    /// so that nobody can write a turn of the conversation themselves.
    pub fn encode(&self, text: &str) -> Arc<[Token]> {
        let text = policy::neutralise(text, &self.layout.reserved);
        self.gateway
            .engine
            .tokenizer()
            .encode(&text, Special::AsText)
            .into()
    }

    /// Whether the text holds what the layout reserves.
    pub fn reserves(&self, text: &str) -> bool {
        matches!(
            policy::neutralise(text, &self.layout.reserved),
            Cow::Owned(_)
        )
    }

    /// The messages that trimming kept, neutralised as their tokens are.
    pub fn harmless(&self, trimmed: &Trimmed) -> Vec<Message> {
        let mut messages = trimmed.of(&self.messages);
        for message in &mut messages {
            if let Cow::Owned(text) = policy::neutralise(&message.text, &self.layout.reserved) {
                message.text = text.into();
            }
        }
        messages
    }

    /// A message of the history. Its tokens hold unless its text contains what the present
    /// layout reserves: the layout may have been swapped since.
    fn safe(&self, message: &Message) -> Message {
        let mut message = message.clone();
        if self.reserves(&message.text) {
            message.tokens = self.encode(&message.text);
        }
        message
    }

    /// Appends what the client said: one message, or a conversation.
    fn add_said(&mut self, mut id: u64, mut exchange: u32, remembered: bool) {
        for (at, said) in self.ask.news(remembered).enumerate() {
            // An exchange begins with a question.
            if at > 0 && said.role == Role::User {
                exchange += 1;
            }
            let tokens = self.encode(&said.text);
            self.messages.push(Message {
                id,
                role: said.role,
                text: said.text.as_str().into(),
                tokens,
                pinned: said.role == Role::System,
                exchange,
            });
            id += 1;
        }
    }

    /// A guard's other text takes the new message's place.
    pub fn rewrite(&mut self, text: &str) -> Result<(), Error> {
        let tokens = self.encode(text);
        if let Some(last) = self.messages.last_mut() {
            last.text = text.into();
            last.tokens = tokens;
        }
        self.check_fit()
    }

    /// What no trimming can help: the new message, pinned ones and the layout exceed the context.
    fn check_fit(&self) -> Result<(), Error> {
        let context = self.gateway.engine.model().n_ctx;
        let last = self.messages.len().saturating_sub(1);
        let must = |at: usize, m: &Message| m.pinned || at == last;
        let fixed: usize = self
            .messages
            .iter()
            .enumerate()
            .filter(|(at, m)| must(*at, m))
            .fold(self.layout.fixed as usize, |sum, (_, m)| {
                sum + m.tokens.len() + self.layout.per_message as usize
            });
        let room = context.saturating_sub(self.max_tokens) as usize;
        if fixed <= room {
            return Ok(());
        }
        // A message that fits beside a shorter answer is not what is wrong.
        let left = (context as usize).saturating_sub(fixed);
        if self.ask.params.max_tokens.is_some() && left > 0 {
            return Err(Error::invalid(
                self.ask.max_tokens_field,
                format!(
                    "found {}, expected at most {left}: the context is {context}, and {fixed} are \
                     needed for the question",
                    self.max_tokens
                ),
            ));
        }
        Err(Error::invalid(
            self.field(),
            format!(
                "needs {fixed} tokens, at most {room} fit: the context is {context} and {} are \
                 kept for the answer (max_tokens)",
                self.max_tokens
            ),
        ))
    }

    /// The body's field with the new message.
    fn field(&self) -> &'static str {
        match self.ask.route.starts_with("/v1") {
            true => "messages",
            false => "message",
        }
    }

    /// A policy's refusal, about the field that the client sent.
    pub fn denied(&self, denied: Denied) -> Error {
        match denied {
            Denied::TooLong { .. } => Error::invalid(self.field(), denied.to_string()),
            denied => denied.into(),
        }
    }

    /// Says on the request's span that history was left out.
    pub fn tell_trimmed(&self, trimmed: &Trimmed) {
        if trimmed.dropped == 0 {
            return;
        }
        let tokens = |messages: &[Message]| messages.iter().map(|m| m.tokens.len()).sum();
        let (before, after) = (tokens(&self.messages), tokens(&trimmed.of(&self.messages)));
        spans::context_trimmed(&self.ask.span, before, after, trimmed.dropped);
    }

    /// Looks the question up under the policy's key; `None` for a miss and for no lookup at all.
    /// Called where keys of parts are known, and again with the prompt.
    pub fn lookup(&self, lookup: &Lookup, prompt: Option<&Prompt>) -> Option<Cached> {
        let basis = match (lookup, prompt) {
            (Lookup::Bypass, None) => "none",
            (Lookup::By(key), None) if matches!(key.basis, policy::Basis::Parts(_)) => "parts",
            (Lookup::By(key), Some(_)) if key.basis == policy::Basis::ExactPrompt => "exact",
            _ => return None,
        };
        let cache = &self.gateway.cache;
        let span = spans::cache_lookup(&self.ask.span, cache.store_name(), basis);
        let asked = self.cache_key(lookup, prompt);
        let hit = asked.map(|(key, policy)| cache.lookup(&key, policy.max_age));
        let (result, hit) = match hit {
            None => ("bypass", None),
            Some(None) => ("miss", None),
            Some(hit) => ("hit", hit),
        };
        spans::cache_result(&span, result);
        self.gateway.metrics.cache(basis, result);
        hit
    }

    /// The cache key, where the policy wants one and this is the stage at which it is known:
    /// parts before the prompt, the exact prompt after it.
    pub fn cache_key<'a>(
        &self,
        lookup: &'a Lookup,
        prompt: Option<&Prompt>,
    ) -> Option<(Key, &'a CacheKey)> {
        let Lookup::By(policy) = lookup else {
            return None;
        };
        if self.gateway.cache.is_off() || !self.ask.params.repeatable(&self.live.defaults) {
            return None;
        }
        let basis = match (&policy.basis, prompt) {
            (policy::Basis::Parts(parts), None) => CacheBasis::Parts(parts),
            (policy::Basis::ExactPrompt, Some(prompt)) => CacheBasis::Prompt {
                tokens: &prompt.tokens,
                stop: &prompt.stop,
            },
            _ => return None,
        };
        let tenant = &self.ask.tenant;
        let audience = match (policy.scope, &self.ask.session) {
            (Scope::Shared, _) => Audience::Everybody,
            (Scope::Tenant, _) => Audience::Tenant(tenant),
            (Scope::Session, Some(session)) => Audience::Session(tenant, session),
            // Without a session nobody can come back to ask again.
            (Scope::Session, None) => return None,
        };
        Some((self.identity(audience, basis).key(), policy))
    }

    /// Names the run that answers this prompt; `None` where each run differs. What the engine says
    /// depends on the prompt alone: policies see it afterwards, each request's own.
    pub fn flight_key(&self, prompt: &Prompt) -> Option<Key> {
        let basis = CacheBasis::Prompt {
            tokens: &prompt.tokens,
            stop: &prompt.stop,
        };
        let run = || Identity {
            policies: "run",
            attributes: &[],
            streaming: false,
            ..self.identity(Audience::Tenant(&self.ask.tenant), basis)
        };
        let repeatable = self.ask.params.repeatable(&self.live.defaults);
        repeatable.then(|| run().key())
    }

    fn identity<'a>(&'a self, audience: Audience<'a>, basis: CacheBasis<'a>) -> Identity<'a> {
        let seed = self.ask.params.seed.unwrap_or(self.live.defaults.seed);
        let (policies, draw) = match (basis, seed) {
            // The prompt shows all that trimming and guarding did to it.
            (CacheBasis::Prompt { .. }, _) => (
                self.policies.identity_behind_prompt(),
                Draw::Seed(self.sampling.seed),
            ),
            (CacheBasis::Parts(_), Seed::Fixed(seed)) => {
                (self.policies.identity(), Draw::Seed(seed))
            }
            (CacheBasis::Parts(_), _) => (self.policies.identity(), Draw::Derived),
        };
        Identity {
            audience,
            model: &self.gateway.engine.model().fingerprint,
            policies,
            attributes: &self.ask.attributes,
            streaming: self.ask.streaming,
            sampling: &self.sampling,
            draw: match self.sampling.temperature == 0.0 {
                true => Draw::Greedy,
                false => draw,
            },
            max_tokens: self.max_tokens,
            stop: &self.ask.params.stop,
            basis,
        }
    }

    /// Settles the seed: a derived one follows from the final prompt.
    pub fn seed(&mut self, prompt: &Prompt) -> Result<(), Error> {
        let (seed, source) = self.ask.params.seed(&self.live.defaults, &prompt.tokens)?;
        self.sampling.seed = seed;
        self.seed_source = source;
        Ok(())
    }

    /// Time since the request arrived.
    pub fn elapsed(&self) -> Duration {
        self.ask.arrived.elapsed()
    }
}
