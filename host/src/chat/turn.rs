//! One request on its way: the conversation as the policies see it, and what every later stage
//! asks of it.

mod conversation;
mod keys;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Ask, Gateway, Live};
use crate::engine::EngineError;
use crate::error::Error;
use crate::policy::{self, Denied, Facts, Filter, Layout, Prompt, Snapshot, Trimmed};
use crate::session::{Session, Watch, Writer};
use crate::trace::spans;
use crate::types::{Message, Sampling, SessionKey, Special, Token};

/// The conversation with the new message at its end.
pub struct Turn {
    pub gateway: Arc<Gateway>,
    pub live: Arc<Live>,
    pub ask: Ask,
    pub policies: Snapshot,
    /// Oldest first; the last one is new.
    pub messages: Vec<Message>,
    /// The right to add to the session; nobody else writes there while it is held.
    pub writer: Option<Writer>,
    /// Sees whether somebody forgets the session, also when the right is given back.
    watch: Option<Watch>,
    /// What is remembered of the conversation.
    session: Session,
    /// Where trimming cut the last time.
    pub anchor: Option<u64>,
    pub sampling: Sampling,
    pub max_tokens: u32,
    /// `client`, `derived` or `random`, once the prompt is known.
    pub seed_source: &'static str,
    layout: Layout,
    /// The server that hosts share did not do what this request asked of it.
    store_failed: bool,
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
            let field = match error {
                EngineError::Logprobs(_) => "logprobs",
                _ => ask.params.format.field(),
            };
            return Err(Error::invalid(field, error.to_string()));
        }
        let mut turn = Self {
            sampling,
            gateway: Arc::clone(gateway),
            live,
            ask,
            policies,
            messages: Vec::new(),
            writer: None,
            watch: None,
            session: Session::default(),
            anchor: None,
            max_tokens,
            seed_source: "derived",
            layout,
            store_failed: false,
        };
        turn.session = turn.history().await?;
        turn.take_back(None);
        turn.compose();
        turn.check_fit()?;
        Ok(turn)
    }

    /// The session's key; `None` for a stateless request.
    pub fn key(&self) -> Option<SessionKey> {
        let session = self.ask.session.clone()?;
        Some(SessionKey {
            tenant: self.ask.tenant.clone(),
            session,
        })
    }

    /// Whether somebody had the session forgotten since this turn began.
    pub fn forgotten(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::forgotten)
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

    /// What no trimming can help: the new message, pinned ones and the layout exceed the context.
    pub(super) fn check_fit(&self) -> Result<(), Error> {
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

    /// What a filter takes out of an answer would be told by the probabilities all the same.
    pub fn check_logprobs(&self, filter: &Filter) -> Result<(), Error> {
        match self.sampling.logprobs {
            Some(_) if filter.works() => Err(Error::invalid(
                "logprobs",
                "found true, expected false: a filter policy may change what is answered",
            )),
            _ => Ok(()),
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
